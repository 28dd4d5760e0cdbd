"""Fixtures that many tests share: a tiny random pipeline with Stable Diffusion 1.5's shape."""

import gc
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch starts its threads: on a small machine, more than one only gets in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support.forking.start import servers

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

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


TOGETHER = (
    "tests/end_to_end/chaos",
    "tests/pipelines",
    "tests/end_to_end",
    "tests/end_to_end/head",
    "tests/test_packaging.py",
    "tests/pipelines/report",
    "tests/benchmarks/test_gpu.py",
    "tests/benchmarks/test_smoke.py",
    "tests/pipelines/scheduling",
    "tests/test_docs.py",
    "tests/conceptprune/store/s3",
)
"""How the paths start of tests that share what there should be one of, or that take long: these, in
the order of the time they take. Of the others, a file stays together.
"""


def group_of(nodeid: str) -> str:
    """The group of a test: the longest start that fits its path, or the file that it is in."""
    path = nodeid.partition("::")[0]
    return max((start for start in TOGETHER if path.startswith(start)), key=len, default=path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The long ones first, so that no process is left alone with one at the end.
    rank = {start: place for place, start in enumerate(TOGETHER)}
    items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))


def pytest_collection_finish() -> None:
    # What is there now, half a million objects of torch, transformers and diffusers, stays to the
    # end: the collector need not go through it again and again, 0.3 s each time.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    # Worth its start where the whole suite runs, in processes of which this is not one.
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        running = ExitStack()
        running.enter_context(servers())
        config.add_cleanup(running.close)


def pytest_unconfigure() -> None:
    # Extension modules complain at the end of what they made and nobody collects.
    gc.unfreeze()


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


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Of torch's, for tests run beside each other."""
    # Here and not above: xdist's own process, which runs no test, need not import torch.
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `from_pretrained` folder of the tiny pipeline."""
    from tests.support.sd15_shaped import build_pipeline

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_pipe() -> "StableDiffusionPipeline":
    """The tiny pipeline, fresh for each test."""
    from tests.support.sd15_shaped import build_pipeline

    return build_pipeline()
