"""`python -m benchmarks gpu`, run as it is on a GPU's first day, on the CPU with tiny models."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.capacity import measured_rows
from benchmarks.gpu.cli import main
from benchmarks.gpu.correctness import Demo, failures
from benchmarks.gpu.measures import Measures, same_bytes
from benchmarks.gpu.settings import PARTS, OutOfTimeError, Settings
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.table import table
from conceptprune.models.families import family_named
from conceptprune.models.stable_diffusion import StableDiffusion
from tests.support.sd15_shaped import build_pipeline
from tests.support.tiny_models import TINY_MODELS

MODELS = ("sdxl", "flux")
"""With two guidance branches and with one, a U-Net and a transformer; one of them offloaded."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "results.json"
    # A slow machine must not leave anything out.
    options = ["--models", ",".join(MODELS), "--minutes", "60", "--out", str(out)]
    assert main(["--device", "cpu", "--small", *options]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_model_is_measured(results: dict[str, Any]) -> None:
    for name in MODELS:
        found = results["models"][name]["float32"]
        assert found["tflop"] > 0
        assert [row["prompts"] for row in found["speed"]] == [1, 2]
        assert found["concept"]["device_hours"] > 0
        assert found["erasure"]["restored"]
        assert found["erasure"]["mask_bytes"] > 0


def test_a_model_is_run_and_held_in_other_ways(results: dict[str, Any]) -> None:
    found = results["models"]["sdxl"]["float32"]
    assert found["variants"].keys() == {
        *("as_it_is", "attention_as_products", "channels_last", "traced")
    }
    assert found["offload"].keys() == {"none", "encoders", "model", "sequential"}
    assert "variants" not in results["models"]["flux"]["float32"]


def test_the_cpu_passes_every_check_of_correctness(results: dict[str, Any]) -> None:
    assert failures(results["correctness"]) == []
    expected = {name for name, found in results["correctness"].items() if "passed" in found}
    assert expected == {
        "float32_against_cpu_float64",
        "two_runs",
        "batch_1_against_8",
        "windows_against_none",
        "apply_then_remove",
        "not_a_number_is_named",
        "overflow_is_named",
    }


def test_every_number_is_finite(results: dict[str, Any]) -> None:
    assert all(math.isfinite(number) for number in _numbers(results))


def test_the_table_has_a_row_for_each_batch_and_a_line_for_each_check(
    results: dict[str, Any],
) -> None:
    lines = table(results).splitlines()
    for name in MODELS:
        assert len([line for line in lines if line.startswith(f"{name}  ")]) == 2
    for name in results["correctness"]:
        assert len([line for line in lines if line.startswith(f"{name}: ")]) == 1


def test_the_capacity_page_has_rows_of_real_sizes_alone(results: dict[str, Any]) -> None:
    assert measured_rows(results) == []
    rows = measured_rows({**results, "small": False})
    assert [row["model"] for row in rows] == ["Stable Diffusion XL", "FLUX.1 dev"]


def test_the_reference_starts_from_the_latents_of_the_model_it_is_compared_with() -> None:
    exact, single = (
        Demo(dtype, CPU, small=True).model.noise([torch.Generator().manual_seed(3)])
        for dtype in (torch.float64, torch.float32)
    )
    assert torch.equal(exact, single.double())
    plain = StableDiffusion.from_pipeline(build_pipeline())
    assert torch.equal(single, plain.noise([torch.Generator().manual_seed(3)]))


def test_fewer_calls_are_made_where_they_would_take_longer_than_there_is_time() -> None:
    model = StableDiffusion.from_pipeline(build_pipeline())
    assert Measures(model, _settings(seconds=1e-6))._calls_in_time(1) == 2
    assert Measures(model, _settings(seconds=3600))._calls_in_time(1) == 10


def test_one_or_two_calls_are_not_timed_first() -> None:
    """Where a call takes half an hour, as in bfloat16 on some CPUs, each that is spared counts."""
    model = StableDiffusion.from_pipeline(build_pipeline())
    seen = []
    model.denoiser.register_forward_hook(lambda *_: seen.append(True))
    assert Measures(model, _settings(calls=1))._calls_in_time(1) == 1
    assert not seen


@pytest.mark.parametrize("name", ["sd1", "flux-dev"])
def test_operations_are_counted_with_attention_and_without_a_denoiser_call(name: str) -> None:
    (tiny,) = (model for model in TINY_MODELS if model.name == name)
    pipe = tiny.pipeline()
    model = family_named(type(pipe).__name__)(pipe, resolution=tiny.resolution)
    measures = Measures(model, _settings())
    # Once before, because texts are encoded only once.
    measures._bare(1, 1)
    # The products of attention are counted here, and not in a CPU's fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        measures._bare(1, 1)
    expected = counted.get_total_flops() / measures.num_branches / 1e12
    model.predict = lambda sample, *rest: _faked(type(model).predict(model, sample, *rest))  # type: ignore[method-assign]
    assert measures.operations()["tflop"] == pytest.approx(expected)


def test_collection_is_compared_with_a_loop_that_makes_whole_calls() -> None:
    model = StableDiffusion.from_pipeline(build_pipeline())
    ends = []
    handle = model.denoiser.get_submodule("conv_out").register_forward_hook(
        lambda *_: ends.append(True)
    )
    measures = Measures(model, _settings())
    measures._bare(1, 3)
    assert len(ends) == 3
    measures._collect(1, 3)
    handle.remove()
    assert len(ends) == 6


def test_what_takes_longer_than_is_left_is_not_begun() -> None:
    settings = _settings(minutes=1)
    settings.check_time()
    with pytest.raises(OutOfTimeError, match="1 minutes"):
        settings.check_time(needs=61)


def test_zero_and_minus_zero_are_not_the_same_bytes() -> None:
    zero = torch.zeros(3)
    assert same_bytes(zero, zero.clone())
    assert not same_bytes(zero, -zero)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd15", 859520964), ("sdxl", 2567463684), ("sd3", 2028328000), ("flux", 11901408320)],
)
def test_the_shapes_are_the_published_ones(name: str, parameters: int) -> None:
    shape = SHAPES[name]
    assert shape.parameters(shape.config) == parameters


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_make_a_pipeline_of_theirs(name: str) -> None:
    shape = SHAPES[name]
    # Without memory for their weights.
    pipe = shape.build(shape.config, torch.float16, torch.device("meta"))
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert len(modules) >= 3
    assert {module.dtype for module in modules.values()} == {torch.float16}
    # A scheduler computes its schedule on the host, in float32.
    pipe.scheduler.set_timesteps(4, **({"mu": 1.0} if name == "flux" else {}))
    assert pipe.scheduler.timesteps.isfinite().all()


def test_blocks_are_cut_until_the_weights_fit() -> None:
    shape = SHAPES["flux"]
    whole = 2 * shape.parameters(shape.config)
    assert shape.fitting(whole, torch.float16) == shape.config
    cut = shape.fitting(whole // 2, torch.float16)
    assert cut is not None
    assert (cut["num_layers"], cut["num_single_layers"]) == (9, 19)
    assert shape.fitting(whole // 100, torch.float16) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "--device tpu"),
        (["--models", "sd15,sd9"], "--models: there is no sd9"),
        (["--dtypes", "int8"], "--dtypes: there is no int8"),
        (["--parts", "all"], "--parts: there is no all"),
        (["--out", "/"], "--out: / is not the path of a file"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(
    options: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--device", "cpu", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def _faked(prediction: torch.Tensor) -> torch.Tensor:
    """The prediction, which must have a shape alone."""
    assert isinstance(prediction, FakeTensor)
    return prediction


def _settings(*, seconds: float = 1, minutes: float = 1, calls: int = 10) -> Settings:
    return Settings(
        device=CPU,
        small=True,
        models=(),
        dtypes=(),
        parts=PARTS,
        calls=calls,
        most=1,
        repeats=1,
        seconds=seconds,
        minutes=minutes,
    )


def _numbers(found: Any) -> Iterator[float]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _numbers(value)
    elif isinstance(found, list):
        for value in found:
            yield from _numbers(value)
    elif isinstance(found, int | float):
        yield found
