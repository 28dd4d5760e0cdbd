"""One model in one dtype: speed, memory, and the steps from statistics to a pruned model.

An evaluation is one latent with one prompt and one branch of guidance through the denoiser.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.device import MIB, Peak, seconds
from benchmarks.gpu.settings import CALLS, PROMPTS, OutOfTimeError, Settings
from conceptprune.collection.collect import Window, collect, collect_window
from conceptprune.collection.statistics import Statistics
from conceptprune.errors import NumericalError
from conceptprune.manifest import Collection
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.select_conceptprune import top_columns
from conceptprune.masks.selectors import Evidence, named_selector, select_mask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_of
from conceptprune.models.prompt import Prompt
from conceptprune.models.settings import Offload
from conceptprune.studio.names import THINGS
from conceptprune.units.batch_memory import BatchMemory

GUIDANCE = 7.5
STEPS = 50
SPARSITY = 0.01
LAYOUTS = (torch.channels_last, torch.contiguous_format)
COMPILATIONS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "cuda": {
        "compiled": {"backend": "inductor"},
        "compiled_with_cuda_graphs": {"backend": "inductor", "mode": "reduce-overhead"},
    },
    # Inductor needs a C++ compiler there, and its code says nothing about a card.
    "cpu": {"traced": {"backend": "eager"}},
}
"""The arguments of `compile`, by type of device and name in the results."""
COMPILING = 120
"""Seconds that must be left for a compilation, which cannot be interrupted."""


class Measures:
    """All measurements of a loaded model; each method returns what goes into the JSON."""

    def __init__(self, model: DiffusionModel, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.device = settings.device
        self.num_branches = model.num_branches(GUIDANCE)

    def weights(self) -> dict[str, Any]:
        """Sizes of the denoiser and of the default site."""
        weights = list(self.model.denoiser.parameters())
        site = self.model.site_linears(["ffn_out"]).values()
        return {
            "parameters": sum(weight.numel() for weight in weights),
            "weights_mib": sum(weight.nbytes for weight in weights) / MIB,
            "site_weights": sum(site_linear.linear.weight.numel() for site_linear in site),
        }

    def encoding(self) -> dict[str, Any]:
        """Time to encode a prompt; the text encoders always take one at a time."""
        texts = [prompt.text for prompt in prompts(4)]
        self.model.encode_all(["warm"])
        spent = seconds(lambda: self.model.encode_all(texts), self.device)
        return {"seconds_a_prompt": spent / len(texts)}

    def operations(self) -> dict[str, Any]:
        """Products, convolutions and attention of one evaluation, counted without computing them.

        Attention is counted as products, because torch knows no count for a CPU's fused kernel.
        """
        batch = self.model.begin(prompts(1), steps=STEPS, guidance=GUIDANCE)
        # A scheduler asks for values, which there are none of below.
        latents, timestep = batch.trajectory.model_input(), batch.trajectory.timestep
        samples = latents.expand(self.num_branches, *latents.shape).flatten(0, 1)
        conditions = {name: tensor.flatten(0, 1) for name, tensor in batch.conditions.items()}
        with (
            torch.no_grad(),
            FakeTensorMode(allow_non_fake_inputs=True),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counted,
        ):
            self.model.predict(samples, timestep, conditions, GUIDANCE)
        return {"tflop": counted.get_total_flops() / self.num_branches / 1e12}

    def speeds(self, peak_rate: float, tflop: float) -> list[dict[str, Any]]:
        """Speeds at batches of one prompt, a quarter of the largest, and the largest that fits."""
        largest = self._largest()
        sizes = sorted({1, max(1, largest // 4), largest})
        return [self.speed(size, peak_rate, tflop) for size in sizes]

    def speed(self, batch: int, peak_rate: float, tflop: float) -> dict[str, Any]:
        """The bare loop and collection in turn, so that a slow moment slows both.

        With fewer calls than a job makes, collection's overhead comes out too large, because the
        sums are moved to the host once, however few calls there were.
        """
        calls = self._calls_in_time(batch)
        bare, collected = [], []
        peaks: dict[str, float] = {}
        for work, name in ((self._bare, "bare"), (self._collect, "collection")):
            memory = Peak(self.device)
            work(batch, min(2, calls))
            peaks[name] = memory.mib()
        for _ in range(self.settings.repeats):
            self.settings.check_time()
            bare.append(seconds(lambda: self._bare(batch, calls), self.device))
            collected.append(seconds(lambda: self._collect(batch, calls), self.device))
        evaluations = batch * self.num_branches * calls
        ratio = median(watched / alone for watched, alone in zip(collected, bare, strict=True))
        rate = evaluations / median(bare)
        return {
            "prompts": batch,
            "calls": calls,
            "bare_evaluations_a_second": rate,
            "collection_evaluations_a_second": evaluations / median(collected),
            "overhead_percent": 100 * (ratio - 1),
            "share_of_product_rate": rate * tflop * 1e12 / peak_rate,
            "bare_peak_mib": peaks["bare"],
            "collection_peak_mib": peaks["collection"],
        }

    def variants(self, batch: int, peak_rate: float, tflop: float) -> dict[str, Any]:
        """The same with another memory layout, with other attention, and compiled.

        Compiled code calls no hooks, so only the bare loop is timed compiled; collection runs the
        module as it is.
        """
        found: dict[str, Any] = {"as_it_is": self.speed(batch, peak_rate, tflop)}
        for name, way in self._ways().items():
            with way():
                found[name] = attempted(lambda: self.speed(batch, peak_rate, tflop))
        for name, how in COMPILATIONS[self.device.type].items():
            found[name] = attempted(partial(self._compiled, batch, how))
        return found

    def _ways(self) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
        ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
            "attention_as_products": lambda: sdpa_kernel(SDPBackend.MATH)
        }
        if any(isinstance(module, nn.Conv2d) for module in self.model.denoiser.modules()):
            ways["channels_last"] = lambda: _layout(self.model.denoiser)
        return ways

    def erasure(self) -> dict[str, Any]:
        """From statistics of two prompts to a mask, applied and removed."""
        model, calls = self.model, self.settings.calls
        weights = {
            name: site_linear.linear.weight.detach()
            for name, site_linear in model.site_linears(["ffn_out"]).items()
        }
        memory = Peak(self.device)
        target: list[Statistics] = []
        collecting = seconds(
            lambda: target.append(
                collect(model, prompts(1, "in the style of Van Gogh"), self._collection(1, calls))
            ),
            self.device,
        )
        peak = memory.mib()
        self.settings.check_time()
        evidence = Evidence(
            target=target[0], base=collect(model, prompts(1), self._collection(1, calls))
        )

        def select() -> PruningMask:
            return select_mask(
                weights,
                evidence,
                named_selector("conceptprune", sparsity=SPARSITY, min_per_row=1),
                concept="Van Gogh",
                component=model.component,
                provenance={},
            )

        def top(device: torch.device | str) -> float:
            """Seconds to rank one call's columns in all layers, by the target's energies."""
            here = [
                (weight.to(device).float().abs(), torch.from_numpy(layer.sum_sq[0]).to(device))
                for weight, layer in (
                    (weights[name][:, -layer.sum_sq.shape[1] :], layer)
                    for name, layer in evidence.target.layers.items()
                )
            ]

            def work() -> None:
                for magnitude, energy in here:
                    top_columns(magnitude * energy.sqrt().float(), magnitude.shape[1] // 100 or 1)

            work()
            return seconds(work, self.device)

        mask = select()
        before = {name: weight.clone() for name, weight in weights.items()}
        spent = {
            "collection_seconds": collecting,
            "collection_peak_mib": peak,
            "select_seconds": seconds(select, self.device),
            "a_calls_columns_on_host_seconds": top("cpu"),
            "a_calls_columns_on_device_seconds": top(self.device),
            "apply_seconds": seconds(lambda: mask.apply(model.pipe), self.device),
            "remove_seconds": seconds(lambda: mask.remove(model.pipe), self.device),
        }
        return {
            **spent,
            "calls": calls,
            "mask_bytes": len(mask.to_bytes()),
            "mask_entries": mask.num_entries,
            "restored": all(same_bytes(weights[name], before[name]) for name in weights),
        }

    def _bare(self, batch: int, calls: int) -> None:
        """The same denoiser calls as collection makes, with no hook anywhere."""
        begun = self.model.begin(prompts(batch), steps=STEPS, guidance=GUIDANCE)
        self.model.run(begun, calls, lambda _: None)

    def _collect(self, batch: int, calls: int) -> None:
        """With its states: else it would leave the last call early, which the loop does not."""
        collect_window(self.model, prompts(batch), self._collection(batch, calls), Window(0, calls))

    def _calls_in_time(self, batch: int) -> int:
        """The number of calls that fits the time for all loops of a batch size; at least two.

        The calls made to find out also warm caches, and let the device choose its kernels.
        """
        calls = self.settings.calls
        if calls <= 2:
            return calls
        self._bare(batch, 1)
        one = seconds(lambda: self._bare(batch, 1), self.device)
        in_time = int(self.settings.seconds / (2 * self.settings.repeats * one))
        return max(2, min(calls, in_time))

    def _collection(self, batch: int, calls: int) -> Collection:
        return Collection(steps=STEPS, tau=calls, guidance=GUIDANCE, batch_size=batch)

    def _largest(self) -> int:
        """The most prompts that go through the denoiser together, found by halving as in a job."""
        memory = BatchMemory(self.settings.most)
        if self.settings.most > 1:
            for attempt in memory.attempts():
                with attempt as at_once:
                    self._bare(at_once, 1)
        return memory.at_once

    def _compiled(self, batch: int, how: dict[str, Any]) -> dict[str, Any]:
        self.settings.check_time(needs=COMPILING)
        denoiser = self.model.denoiser
        try:
            denoiser.compile(**how)
            first = seconds(lambda: self._bare(batch, 1), self.device)
            calls = self._calls_in_time(batch)
            spent = [
                seconds(lambda: self._bare(batch, calls), self.device)
                for _ in range(self.settings.repeats)
            ]
        finally:
            denoiser._compiled_call_impl = None
            torch.compiler.reset()
        return {
            "prompts": batch,
            "calls": calls,
            "first_call_seconds": first,
            "bare_evaluations_a_second": batch * self.num_branches * calls / median(spent),
        }


def offloads(pipe: Any, dtype: torch.dtype, settings: Settings) -> dict[str, Any]:
    """What each way to save the device's memory saves and costs, for the model from a folder.

    `pipe` must already be on the host, so that the device is empty.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipe.save_pretrained(folder)
        for offload in get_args(Offload):
            settings.check_time()
            found[offload] = _offloaded(folder, offload, dtype, settings)
    return found


def _offloaded(
    folder: Path, offload: Offload, dtype: torch.dtype, settings: Settings
) -> dict[str, float]:
    """Loading time, peak memory and speed of the model with one `offload`."""
    memory = Peak(settings.device)
    loaded: list[DiffusionModel] = []
    loading = seconds(
        lambda: loaded.append(
            family_of(folder).load(folder, dtype=dtype, device=settings.device, offload=offload)
        ),
        settings.device,
    )
    measures = Measures(loaded[0], settings)
    measures._bare(1, 1)
    spent = seconds(lambda: measures._collect(1, settings.calls), settings.device)
    return {
        "load_seconds": loading,
        "peak_mib": memory.mib(),
        "collection_evaluations_a_second": measures.num_branches * settings.calls / spent,
    }


def concept_cost(rate: float, num_branches: int) -> dict[str, float]:
    """What a concept takes on one device: its own side, at `rate` evaluations a second.

    The base side is shared by all concepts, and masks are selected elsewhere meanwhile: neither is
    counted.
    """
    spent = PROMPTS * CALLS * num_branches / rate
    return {"collection_seconds": spent, "device_hours": spent / 3600}


def prompts(count: int, more: str = "") -> list[Prompt]:
    """As many prompts as asked for."""
    return [
        Prompt(text=f"a {THINGS[index % len(THINGS)]} {more}".strip(), seed=index)
        for index in range(count)
    ]


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, which `==` does not tell for 0 and -0."""
    return bool(torch.equal(one.view(torch.uint8), other.view(torch.uint8)))


def attempted(work: Callable[[], Any]) -> Any:
    """The result of `work`, or why it failed: one failure must not hide the other numbers."""
    try:
        return work()
    except OutOfTimeError as error:
        return {"skipped": str(error)}
    except NumericalError as error:
        return {"failed": str(error)}
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        return {"failed": f"{type(error).__name__}: {first[0]}"}


@contextmanager
def _layout(denoiser: nn.Module) -> Iterator[None]:
    """The convolutions' weights with their channels last."""
    kernels = [weight for weight in denoiser.parameters() if weight.dim() == 4]
    last, first = LAYOUTS
    for kernel in kernels:
        kernel.data = kernel.data.contiguous(memory_format=last)
    try:
        yield
    finally:
        for kernel in kernels:
            kernel.data = kernel.data.contiguous(memory_format=first)
