"""Fixtures that many tests share: a tiny random pipeline with Stable Diffusion 1.5's shape."""

import os
from pathlib import Path

# Before torch starts its threads: on a small machine, more than one only gets in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def pytest_itemcollected(item: pytest.Item) -> None:
    # Not when all are collected: xdist looks at the groups before any conftest does. (Under pytest
    # 9.2, xdist 3.8 cannot change a test's id, so its groups have no effect there.)
    item.add_marker(pytest.mark.xdist_group(group_of(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The long ones first, so that no process is left alone with one at the end.
    items.sort(key=lambda item: RANKS.get(group_of(item), len(RANKS)))


def group_of(item: pytest.Item) -> str:
    path = item.path.relative_to(item.config.rootpath).as_posix()
    return next((name for start, name in TOGETHER.items() if path.startswith(start)), path)


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
