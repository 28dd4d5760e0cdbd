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
    "tests/end_to_end": "cluster",
    "tests/pipelines/scheduling": "cluster",
    "tests/test_packaging.py": "cluster",
    "tests/conceptprune/store/s3": "server",
    "tests/pipelines/report": "browser",
}
"""Folders whose tests share what there should be one of; of other tests, a file stays together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(item.config.rootpath).as_posix()
        group = next((name for folder, name in TOGETHER.items() if path.startswith(folder)), path)
        item.add_marker(pytest.mark.xdist_group(group))


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
