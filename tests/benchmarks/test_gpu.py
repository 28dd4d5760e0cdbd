"""`python -m benchmarks gpu`, run as it is on a GPU's first day, on the CPU with tiny models."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.cli import main
from benchmarks.gpu.correctness import failures
from benchmarks.gpu.shapes import SHAPES

GPU = ["--device", "cpu", "--small"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "results.json"
    # A slow machine must not leave anything out.
    assert main([*GPU, "--out", str(out), "--minutes", "60"]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_model_is_measured(results: dict[str, Any]) -> None:
    for name in SHAPES:
        found = results["models"][name]["float32"]
        assert found["tflop"] > 0
        assert [row["prompts"] for row in found["speed"]] == [1, 2]
        assert found["concept"]["device_hours"] > 0
        assert found["variants"].keys() >= {"channels_last", "attention_as_products"}
        assert found["erasure"]["restored"]
    assert results["models"]["sd15"]["float32"]["offload"].keys() >= {"none", "model", "sequential"}


def test_the_cpu_passes_every_check_of_correctness(results: dict[str, Any]) -> None:
    assert failures(results["correctness"]) == []
    assert results["correctness"]["float32_against_cpu_float64"]["passed"]


def test_every_number_is_finite(results: dict[str, Any]) -> None:
    assert all(math.isfinite(number) for number in _numbers(results))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd15", 859520964), ("sdxl", 2567463684), ("sd3", 2028328000), ("flux", 11901408320)],
)
def test_the_shapes_are_the_published_ones(name: str, parameters: int) -> None:
    shape = SHAPES[name]
    assert shape.parameters(shape.config) == parameters


def test_making_a_mask_imports_torch_and_few_packages_beside() -> None:
    code = (
        "import sys, conceptprune.method, conceptprune.collection.collect;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(found.stdout.split())
    assert not imported & {"ray", "s3fs", "fsspec", "filelock", "tenacity", "PIL", "pyarrow"}
    assert "torch" in imported


def test_the_benchmark_imports_no_package_of_the_jobs() -> None:
    code = "import sys, benchmarks.gpu.cli; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert not set(found.stdout.split()) & {"ray", "pipelines", "rich", "pyarrow", "s3fs"}


def test_a_device_that_is_not_there_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--device", "tpu"])
    assert exit_.value.code == 2
    assert "--device" in capsys.readouterr().err or "tpu" in capsys.readouterr().err


def _numbers(found: Any) -> Iterator[float]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _numbers(value)
    elif isinstance(found, list):
        for value in found:
            yield from _numbers(value)
    elif isinstance(found, int | float):
        yield found
