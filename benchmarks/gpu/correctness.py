"""Does the device compute what the CPU does: the demo model's masks, bytes, and named failures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu.measures import GUIDANCE, SPARSITY, STEPS, attempted, same_bytes
from benchmarks.gpu.settings import Settings
from conceptprune.collection.collect import CollectionSettings, Window, collect, collect_window
from conceptprune.collection.statistics import Statistics, join_calls
from conceptprune.errors import NumericalError
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, named_selector, select_mask
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio import model_path
from conceptprune.studio.names import ARTISTS, THINGS

CONCEPT = ARTISTS[0].name
BATCH = 8
NEAR = 0.01
"""So large a share of a mask's entries may differ from float64's in float32."""
LARGE = 6e4
"""Just within float16: a row of such weights overflows."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo model on one device in one dtype, asked for the same mask in several ways."""

    dtype: torch.dtype
    device: torch.device
    calls: int
    things: int

    def model(self) -> StableDiffusion:
        """A fresh one, because some checks spoil its weights."""
        return StableDiffusion.load(model_path(), dtype=self.dtype, device=self.device)

    def settings(self, batch: int) -> CollectionSettings:
        """Of collection."""
        return CollectionSettings(steps=STEPS, tau=self.calls, guidance=GUIDANCE, batch_size=batch)

    def prompts(self, form: str) -> list[Prompt]:
        """One a thing."""
        return [Prompt(text=form.format(thing), seed=0) for thing in THINGS[: self.things]]

    def evidence(self, model: StableDiffusion, batch: int = BATCH) -> Evidence:
        """Both sides."""
        settings = self.settings(batch)
        target = self.prompts(f"a {{}} in the style of {CONCEPT}")
        return Evidence(
            target=collect(model, target, settings),
            base=collect(model, self.prompts("a photo of a {}"), settings),
        )

    def mask(self, batch: int = BATCH) -> PruningMask:
        """The concept's."""
        model = self.model()
        linears = model.metered(["ffn_out"])
        return select_mask(
            {name: metered.linear.weight.detach() for name, metered in linears.items()},
            self.evidence(model, batch),
            named_selector("conceptprune", sparsity=SPARSITY),
            concept=CONCEPT,
            component=model.component,
            provenance={},
        )


def check(settings: Settings) -> dict[str, Any]:
    """Every check, by name: what was found, and `passed` where something was expected."""
    calls, things = (2, 3) if settings.small else (10, len(THINGS))
    exact = Demo(torch.float64, torch.device("cpu"), calls, things).mask()
    single, half = (
        Demo(dtype, settings.device, calls, things) for dtype in (torch.float32, torch.float16)
    )
    checks: Mapping[str, Callable[[], dict[str, Any]]] = {
        "float32_against_cpu_float64": lambda: _compared(single.mask(), exact, at_most=NEAR),
        "float16_against_cpu_float64": lambda: _compared(half.mask(), exact, at_most=None),
        "two_runs": lambda: {"passed": single.mask().digest == single.mask().digest},
        "batch_1_against_8": lambda: _compared(single.mask(1), single.mask(BATCH), at_most=NEAR),
        "windows_against_none": lambda: _windows(single),
        "apply_then_remove": lambda: _restored(half),
        "not_a_number_is_named": lambda: _named(single, float("nan")),
        "overflow_is_named": lambda: _named(half, LARGE),
    }
    return {name: attempted(work) for name, work in checks.items()}


def failures(checks: Mapping[str, Any]) -> list[str]:
    """Names of the checks that did not give what was expected."""
    return [name for name, found in checks.items() if not found.get("passed", True)] + [
        name for name, found in checks.items() if "failed" in found
    ]


def _compared(mask: PruningMask, other: PruningMask, *, at_most: float | None) -> dict[str, Any]:
    """Entries that only one of two masks has, as a share of those that either has."""
    differing = either = 0
    for name, layer in mask.layers.items():
        theirs = other.layers[name].entries
        differing += len(np.setxor1d(layer.entries, theirs, assume_unique=True))
        either += len(np.union1d(layer.entries, theirs))
    share = differing / either
    found: dict[str, Any] = {"entries": mask.num_entries, "differing_share": share}
    return found if at_most is None else {**found, "passed": share <= at_most}


def _windows(demo: Demo) -> dict[str, Any]:
    """The same statistics, bit for bit, when the calls are made in two goes."""
    model, settings = demo.model(), demo.settings(BATCH)
    prompts = demo.prompts("a photo of a {}")
    half = demo.calls // 2
    first = collect_window(model, prompts, settings, Window(0, half))
    second = collect_window(model, prompts, settings, Window(half, demo.calls), first.states)
    joined = join_calls([first.statistics, second.statistics])
    return {"passed": _equal(joined, collect(model, prompts, settings))}


def _equal(one: Statistics, other: Statistics) -> bool:
    return one.timesteps == other.timesteps and all(
        np.array_equal(layer.sum_sq, other.layers[name].sum_sq)
        and np.array_equal(layer.sum_norm, other.layers[name].sum_norm)
        for name, layer in one.layers.items()
    )


def _restored(demo: Demo) -> dict[str, Any]:
    """Every byte of the denoiser is back; and the mask was really there in between."""
    mask, model = demo.mask(), demo.model()
    before = {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}
    mask.apply(model.pipe)
    pruned = mask.is_applied(model.pipe)
    mask.remove(model.pipe)
    after = model.denoiser.state_dict()
    back = all(same_bytes(after[name], weight) for name, weight in before.items())
    return {"passed": pruned and back}


def _named(demo: Demo, value: float) -> dict[str, Any]:
    """What feeds a neuron of one of the site's linears is spoilt: the error names the layer."""
    model = demo.model()
    layer = sorted(model.metered(["ffn_out"]))[-1]
    before = model.denoiser.get_submodule(layer.removesuffix("net.2") + "net.0.proj")
    assert isinstance(before, nn.Linear)
    with torch.no_grad():
        before.weight[0] = value
    try:
        demo.evidence(model)
    except NumericalError as error:
        return {"passed": layer in str(error), "message": str(error)}
    return {"passed": False, "message": "nothing was raised"}
