"""What a fresh process imports on the way to its work: starting one takes seconds, so few do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.conftest import TinyStore

REPORTING = """
import json, sys
stages = {}
for name, code in json.loads(sys.argv[1]).items():
    exec(code, {})
    stages[name] = sorted({module.partition(".")[0] for module in sys.modules})
print(json.dumps(stages))
"""

pytestmark = pytest.mark.slow


def imported(**stages: str) -> dict[str, set[str]]:
    """The packages that one process has imported after each of these pieces of code."""
    ran = subprocess.run(
        [sys.executable, "-c", REPORTING, json.dumps(stages)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        name: set(packages) for name, packages in json.loads(ran.stdout.splitlines()[-1]).items()
    }


def test_the_library_imports_what_it_needs_when_it_needs_it() -> None:
    after = imported(
        looking="import conceptprune; dir(conceptprune)",
        making_a_mask="import conceptprune.method",
        benchmark_of_a_gpu="import benchmarks.gpu.cli",
    )
    assert not after["looking"] & {"torch", "diffusers", "pydantic"}
    assert "torch" in after["making_a_mask"]
    assert not after["making_a_mask"] & {
        *("ray", "s3fs", "fsspec", "filelock", "tenacity", "PIL", "pyarrow")
    }
    assert not after["benchmark_of_a_gpu"] & {"ray", "pipelines", "rich", "pyarrow", "s3fs"}


def test_what_handles_no_weights_imports_no_torch_and_what_only_reads_no_ray(
    tiny_store: TinyStore,
) -> None:
    after = imported(
        checking_a_manifest="import conceptprune.evaluation.job_manifest",
        status=(
            "import pipelines.cli; from rich.console import Console; "
            "from pipelines.commands.status import show_status; "
            f"show_status({tiny_store.uri!r}, Console())"
        ),
        handing_out_units="import pipelines.records.journal, pipelines.scheduling.loop",
    )
    assert "ray" not in after["status"]
    assert "torch" not in after["handing_out_units"]
