"""Does the device compute what the CPU does? The studio model's masks, bytes and named failures."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.device import float32_in_full
from benchmarks.gpu.measures import GUIDANCE, SPARSITY, STEPS, attempted, same_bytes
from benchmarks.gpu.settings import Settings
from conceptprune.collection.collect import Window, collect, collect_window
from conceptprune.collection.statistics import Statistics, join_calls
from conceptprune.errors import NumericalError
from conceptprune.manifest import Collection
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, named_selector, select_mask
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio import model_path
from conceptprune.studio.names import ARTISTS, THINGS
from tests.support.sd15_shaped import build_pipeline

CONCEPT = ARTISTS[0].name
TARGET = f"a {{}} in the style of {CONCEPT}"
BASE = "a photo of a {}"
BATCH = 8
NEAR = 0.01
"""Largest share of a float32 mask's entries that may differ: from float64's, by batch size."""
LARGE = 6e4
"""Just within the range of float16: a row of such weights overflows."""


class Float32Noise(StableDiffusion):
    """The same latents in every dtype: torch's float64 numbers from a seed are different ones."""

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """See `DiffusionModel`; torch samples float16 and bfloat16 like this anyway, and rounds."""
        shape = (self.latent_channels(self.config), *self.latent_size)
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return drawn.to(self.device, self.dtype)


class Demo:
    """The studio model on one device in one dtype, asked for the same mask in several ways.

    With `small`, a model of the same kind that is smaller still.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, *, small: bool) -> None:
        self.calls = 2 if small else 10
        self.things = THINGS[: 2 if small else None]
        if small:
            pipe = build_pipeline().to(device, dtype)
            self.model = Float32Noise.from_pipeline(pipe)
        else:
            self.model = Float32Noise.load(model_path(), dtype=dtype, device=device)
        self._masks: dict[int, PruningMask] = {}

    def settings(self, batch: int) -> Collection:
        """Settings of collection."""
        return Collection(steps=STEPS, tau=self.calls, guidance=GUIDANCE, batch_size=batch)

    def prompts(self, form: str) -> list[Prompt]:
        """One prompt per thing."""
        return [Prompt(text=form.format(thing), seed=0) for thing in self.things]

    def collected(self, form: str, batch: int = BATCH) -> Statistics:
        """Statistics of one side."""
        return collect(self.model, self.prompts(form), self.settings(batch))

    def mask(self, batch: int = BATCH) -> PruningMask:
        """The concept's mask, made once per batch size."""
        if batch not in self._masks:
            self._masks[batch] = self.new_mask(batch)
        return self._masks[batch]

    def new_mask(self, batch: int = BATCH) -> PruningMask:
        """The concept's mask, made anew."""
        evidence = Evidence(target=self.collected(TARGET, batch), base=self.collected(BASE, batch))
        linears = self.model.site_linears(["ffn_out"])
        return select_mask(
            {name: site_linear.linear.weight.detach() for name, site_linear in linears.items()},
            evidence,
            named_selector("conceptprune", sparsity=SPARSITY, min_per_row=1),
            concept=CONCEPT,
            component=self.model.component,
            provenance={},
        )


def check(settings: Settings) -> dict[str, Any]:
    """Every check, by name: what was found, and `passed` where something was expected.

    On a card, convolutions may use TF32, as in a job; only `float32_against_cpu_float64` computes
    in float32 throughout.
    """
    exact = Demo(torch.float64, torch.device("cpu"), small=settings.small)
    single, half = (
        Demo(dtype, settings.device, small=settings.small)
        for dtype in (torch.float32, torch.float16)
    )
    checks: Mapping[str, Callable[[], dict[str, Any]]] = {
        "float32_against_cpu_float64": lambda: _in_full(single, exact),
        "float32_as_in_a_job_against_cpu_float64": lambda: _compared(single.mask(), exact.mask()),
        "float16_against_cpu_float64": lambda: _compared(half.mask(), exact.mask()),
        "two_runs": lambda: {"passed": single.mask().digest == single.new_mask().digest},
        "batch_1_against_8": lambda: _compared(single.mask(1), single.mask(), at_most=NEAR),
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


def _in_full(demo: Demo, exact: Demo) -> dict[str, Any]:
    """Compare a mask made without TF32, which is not kept for the other checks."""
    with float32_in_full():
        mask = demo.new_mask()
    return _compared(mask, exact.mask(), at_most=NEAR)


def _compared(
    mask: PruningMask, other: PruningMask, *, at_most: float | None = None
) -> dict[str, Any]:
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
    """The same statistics, bit for bit, when the calls are made in two windows."""
    model, settings, prompts = demo.model, demo.settings(BATCH), demo.prompts(BASE)
    half = demo.calls // 2
    first = collect_window(model, prompts, settings, Window(0, half))
    second = collect_window(model, prompts, settings, Window(half, demo.calls), first.states)
    joined = join_calls([first.statistics, second.statistics])
    return {"passed": _equal(joined, demo.collected(BASE))}


def _equal(one: Statistics, other: Statistics) -> bool:
    return one.timesteps == other.timesteps and all(
        np.array_equal(layer.sum_sq, other.layers[name].sum_sq)
        and np.array_equal(layer.sum_norm, other.layers[name].sum_norm)
        for name, layer in one.layers.items()
    )


def _restored(demo: Demo) -> dict[str, Any]:
    """Every byte of the denoiser is restored, and the mask was applied in between."""
    mask, model = demo.mask(), demo.model
    before = {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}
    mask.apply(model.pipe)
    pruned = mask.is_applied(model.pipe)
    mask.remove(model.pipe)
    after = model.denoiser.state_dict()
    back = all(same_bytes(after[name], weight) for name, weight in before.items())
    return {"passed": pruned and back}


def _named(demo: Demo, value: float) -> dict[str, Any]:
    """Spoil the weights that feed a neuron of the site: the error must name the layer."""
    model = demo.model
    layer = sorted(model.site_linears(["ffn_out"]))[-1]
    feeding = model.denoiser.get_submodule(layer.removesuffix("net.2") + "net.0.proj")
    assert isinstance(feeding, nn.Linear)
    row = feeding.weight.data[0]
    own = row.clone()
    # With its own signs: summed with equal ones, a normalised input may cancel out.
    row.copy_(own.sign() * value)
    try:
        demo.collected(BASE)
    except NumericalError as error:
        return {"passed": layer in str(error), "message": str(error)}
    finally:
        row.copy_(own)
    return {"passed": False, "message": "nothing was raised"}
