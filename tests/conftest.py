"""Fixtures that many tests share: a tiny random pipeline with Stable Diffusion 1.5's shape."""

import os
import sys
from pathlib import Path
from typing import Any

# Before torch starts its threads: on a small machine, more than one only gets in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if sys.dont_write_bytecode:
    # Tests start a hundred processes, and each of them would compile torch, diffusers and Ray again.
    # They do not where the environment says so; nowhere else is anything written.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    cache = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(cache)
    sys.dont_write_bytecode = False

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import settings

from tests.support.sd15_shaped import build_pipeline

torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here, because options of `tests/end_to_end/chaos` are known only where that folder is
    # named.
    parser.addoption(
        "--chaos-long",
        type=int,
        nargs="?",
        const=3,
        default=0,
        metavar="SEEDS",
        help="do all of tests/end_to_end/chaos with so many seeds, by default three",
    )


TOGETHER = {
    "tests/end_to_end/chaos": "harm",
    "tests/end_to_end/test_secrets.py": "harm",
    "tests/pipelines/scheduling": "harm",
    "tests/end_to_end": "cluster",
    "tests/test_packaging.py": "cluster",
    "tests/test_docs.py": "documents",
    "tests/benchmarks/test_smoke.py": "benchmarks",
    "tests/conceptprune/store/s3": "server",
    "tests/pipelines/report": "browser",
}
"""Tests that take longest, and those that share what there should be one of; the first that fits.

Of other tests, a file stays together. Those on Ray are in groups that one machine of two cores runs
two of at once: each starts clusters of its own, at ports of their own.
"""
RANKS = {name: rank for rank, name in enumerate(dict.fromkeys(TOGETHER.values()))}


def group_of(nodeid: str) -> str:
    """The group of a test, by the file that it is in."""
    path = nodeid.partition("::")[0]
    return next((name for start, name in TOGETHER.items() if path.startswith(start)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The long ones first, so that no process is left alone with one at the end.
    items.sort(key=lambda item: RANKS.get(group_of(item.nodeid), len(RANKS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    # xdist's own groups are a part of a test's id, which pytest no longer lets it change.
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `from_pretrained` folder of the tiny pipeline."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_pipe() -> StableDiffusionPipeline:
    """The tiny pipeline, fresh for each test."""
    return build_pipeline()
