"""Start the servers that fork for other processes, and find the forks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.support.forking.client import NAME

ROOT = Path(__file__).parents[3]
SITE = Path(__file__).with_name("site")
LOADED = (
    *("torch", "numpy", "scipy.stats", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset"),
    *("transformers", "transformers.models.clip.modeling_clip", "diffusers", "peft"),
    *("pydantic", "yaml", "typer", "rich.console", "rich.table", "rich.progress", "jinja2"),
    *("fsspec", "s3fs", "botocore.session", "aiobotocore.session", "tenacity", "safetensors.torch"),
    # Half of the modules of diffusers, which every driver and warm worker would come to by itself.
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    *("diffusers.schedulers.scheduling_pndm", "diffusers.schedulers.scheduling_dpmsolver_sde"),
    *("diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl"),
    "transformers.models.clip.tokenization_clip",
)
SERVERS = 2
"""More than one, because the forks of one have the same hash seed, and so the same order of sets:
what depends on it must not stay unseen."""


@contextmanager
def servers() -> Iterator[None]:
    """Inside the context, processes that are started find servers to fork for them."""
    with TemporaryDirectory() as folder:
        addresses = [f"{folder}/{number}" for number in range(SERVERS)]
        command = [sys.executable, "-m", "tests.support.forking.server"]
        own = dict(os.environ)
        # They end when their input does, also where this process is killed.
        running = [
            subprocess.Popen(
                [*command, address, *LOADED],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            for address in addresses
        ]
        os.environ["TESTS_FORK_SERVERS"] = os.pathsep.join(addresses)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [f"{SITE}", own.get("PYTHONPATH")]))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(own)
            for server in running:
                server.communicate()


def real(process: psutil.Process) -> psutil.Process:
    """The fork that does a process's work, if there is one; otherwise the process.

    Raises:
        psutil.NoSuchProcess: one of them has ended.
    """
    name = process.name()
    return psutil.Process(int(name.removeprefix(NAME))) if name.startswith(NAME) else process
