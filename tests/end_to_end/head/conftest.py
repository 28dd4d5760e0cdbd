"""One single-machine head of `cluster/` for all tests here, and one run that many of them look at.

The head has token authentication and an S3 server; what may show nowhere is planted in its
environment. A job's processes take seconds to start, so there are few jobs; and Ray looks for what
became of one only every few seconds, so they run at the same time.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml

from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.weights import read_layers, weight_digest
from tests.cluster.documents import ROOT, documented
from tests.support.networks import save_vision
from tests.support.s3_server import BUCKET, SeaweedServer, free_ports, running_server, use_server

Ran = subprocess.CompletedProcess[str]
BIN = Path(sys.executable).parent
PORT, DASHBOARD_PORT = free_ports(2)
ADDRESS = f"http://127.0.0.1:{DASHBOARD_PORT}"
HUB_TOKEN = "planted-hub-token-that-must-show-nowhere"


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running head, and how a user who has its address and token reaches it."""

    token: str
    environment: dict[str, str]
    started: str
    """What the command that started it printed."""

    def run(self, command: list[str], *, cwd: Path = ROOT, **environment: str) -> Ran:
        """Run a documented command as one who has set the address and the token."""
        words = [ADDRESS if word == "http://127.0.0.1:8265" else word for word in command]
        return subprocess.run(
            words,
            cwd=cwd,
            env={**self.environment, **environment},
            text=True,
            capture_output=True,
            timeout=250,
            check=False,
        )

    def ask(self, path: str) -> str:
        """What the Jobs API answers, as it is sent."""
        request = Request(ADDRESS + path, headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=60) as answer:
            told: bytes = answer.read()
            return told.decode()

    @property
    def state(self) -> Path:
        """The folder of its processes, logs and sessions."""
        return Path(self.environment["STATE"])


@dataclass(frozen=True, kw_only=True)
class Story:
    """A run that was submitted, left, refused while it was live, stopped and gone on with."""

    work: Path
    store: str
    run: str
    left: str
    """What was said when the user went."""
    live: Ran
    """Of a second submission while the first was live."""
    stopped: Ran
    listed: str
    again: Ran
    followed: Ran
    """Of who followed the log of the last job from elsewhere."""

    @property
    def printed(self) -> str:
        """All that its user was shown."""
        done = (self.live, self.stopped, self.again, self.followed)
        return self.left + self.listed + "".join(one.stdout + one.stderr for one in done)


@pytest.fixture(scope="package")
def server() -> Iterator[SeaweedServer]:
    """The S3 server, which this process and the head's jobs reach by the environment."""
    with running_server() as running, pytest.MonkeyPatch.context() as patch:
        use_server(patch, running.endpoint)
        patch.setenv("HF_TOKEN", HUB_TOKEN)
        yield running


@pytest.fixture(scope="package")
def head(server: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # Ray puts sockets here, whose paths may not be long.
    folder = Path(tempfile.mkdtemp(prefix="cp-head-"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    token = secrets.token_hex(32)
    (folder / "token").write_text(token, encoding="utf-8")
    (folder / "token").chmod(0o600)
    environment = {
        **os.environ,
        "BIN": str(BIN),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PORT": str(PORT),
        "DASHBOARD_PORT": str(DASHBOARD_PORT),
        "STATE": str(folder),
        "RAY_API_SERVER_ADDRESS": ADDRESS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(elsewhere),
        # Ray runs workers at 15: where other programs are busy, they would hardly run at all.
        "RAY_worker_niceness": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    head = Head(token=token, environment=environment, started="")
    started = head.run(documented("bash cluster/local-head.sh start"))
    assert started.returncode == 0, started.stdout + started.stderr
    # As if another head had started since, with Ray's own choice of a folder.
    (elsewhere / "ray").mkdir(exist_ok=True)
    (elsewhere / "ray" / "ray_current_cluster").write_text("127.0.0.1:1", encoding="utf-8")
    yield Head(token=token, environment=environment, started=started.stdout + started.stderr)
    assert head.run(documented("bash cluster/local-head.sh stop")).returncode == 0
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def work(tmp_path: Path, tiny_folder: Path) -> Path:
    """A working directory with a manifest where the documents have theirs."""
    folder = tmp_path / "work"
    write_manifest(folder / "manifests" / "demo.yaml", tiny_folder)
    return folder


@pytest.fixture(scope="package")
def beside(head: Head) -> Iterator[ThreadPoolExecutor]:
    """For commands that run at the same time as others."""
    with ThreadPoolExecutor() as pool:
        yield pool


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A job that was sent off, and goes on beside the tests."""

    store: Path
    ran: Future[Ran]


@pytest.fixture(scope="package")
def evaluation(
    head: Head,
    beside: ThreadPoolExecutor,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Sent:
    """Of a suite and a checkpoint that name files by relative paths only, so that the job can have
    read its own copy only.
    """
    work = write_suite(tmp_path_factory.mktemp("evaluation") / "work", tiny_folder)
    store = work.with_name("store")
    names = {"runs/cluster": str(store), "mask:vorla brint": "ada=mask:masks/ada.safetensors"}
    command = documented("conceptprune submit evaluate", **names)
    return Sent(store=store, ran=beside.submit(head.run, command, cwd=work))


@pytest.fixture(scope="package")
def bad_input(
    head: Head, beside: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Future[Ran], Future[Ran]]:
    """A manifest by Ray's own command and by ours, which is good in itself, but no machine has its
    model: only the job can find that out.
    """
    work = tmp_path_factory.mktemp("bad-input") / "work"
    manifest = write_manifest(work / "manifest.yaml", work / "no-model")
    store = work.with_name("store")
    plain = documented(
        "bash cluster/local-head.sh submit",
        **{"manifests/demo.yaml": str(manifest), "runs/cluster": str(store)},
    )
    ours = submit(store, "manifest.yaml")
    return beside.submit(head.run, plain), beside.submit(head.run, ours, cwd=work)


@pytest.fixture(scope="package")
def story(
    head: Head,
    beside: ThreadPoolExecutor,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    work = tmp_path_factory.mktemp("story") / "work"
    write_manifest(work / "manifests" / "demo.yaml", tiny_folder)
    store = f"s3://{BUCKET}/story"
    run, left = _interrupted_submit(head, work, store)
    live = head.run(submit(store), cwd=work)
    stopped = head.run(documented("ray job stop", JOB=run))
    listed = head.run(documented("ray job list")).stdout
    going_on = beside.submit(head.run, submit(store), cwd=work)
    while f'"{run}-2"' not in head.ask("/api/jobs/") and not going_on.done():
        time.sleep(0.2)
    followed = head.run(documented("ray job logs", JOB=f"{run}-2"))
    again = going_on.result()
    return Story(
        work=work,
        store=store,
        run=run,
        left=left,
        live=live,
        stopped=stopped,
        listed=listed,
        again=again,
        followed=followed,
    )


def write_manifest(path: Path, model: Path) -> Path:
    content = {
        "version": 1,
        "model": {"folder": str(model)},
        "concepts": [{"name": "Ada Bell", "kind": "style", "fillers": ["cat", "car"]}],
        "collection": {"steps": 5, "tau": 2, "dtype": "float32", "device": "cpu"},
        "pruning": {"sparsity": 0.02},
        "outputs": {"deltas": True, "preview": {"seeds": [0], "steps": 1}},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
    }
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def write_suite(work: Path, model: Path) -> Path:
    """A working directory with a suite and all that it needs, and the mask of a checkpoint."""
    shutil.copytree(model, work / "models" / "tiny")
    save_vision(work / "models" / "vision")
    # Near the end of the network: what a layer in its middle does is less than a level of a pixel.
    layers = [f"up_blocks.3.attentions.{n}.transformer_blocks.0.ff.net.2" for n in range(3)]
    _write_mask(work / "masks" / "ada.safetensors", model, layers)
    suite = {
        "version": 1,
        "name": "studio",
        "model": {"folder": "../../models/tiny"},
        "groups": {"general": [{"name": "photos", "csv": "prompts.csv"}]},
        "generation": {"steps": 2, "dtype": "float32", "device": "cpu"},
        "scorers": [{"scorer": "perceptual", "features": {"folder": "../../models/vision"}}],
        # What travels is the matter here: the job's own process does the rest.
        "compute": {"actors": 0},
    }
    suites = work / "manifests" / "suites"
    suites.mkdir(parents=True)
    (suites / "studio.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    (suites / "prompts.csv").write_text("prompt,evaluation_seed\na cat,1\na car,2\n")
    return work


def _write_mask(path: Path, model: Path, layers: list[str]) -> None:
    """A mask of every weight of some layers."""
    weights = read_layers(model, layers, "unet")
    masked = {
        name: LayerMask(
            shape=(weight.shape[0], weight.shape[1]),
            entries=np.arange(weight.numel()),
            weight_digest=weight_digest(weight),
        )
        for name, weight in weights.items()
    }
    mask = PruningMask(concepts=("Ada Bell",), component="unet", layers=masked, provenance={})
    path.parent.mkdir(parents=True)
    path.write_bytes(mask.to_bytes())


def submit(store: Path | str, manifest: str = "manifests/demo.yaml") -> list[str]:
    words = {"runs/cluster": str(store), "manifests/demo.yaml": manifest}
    return documented("conceptprune submit manifests", **words)


def _interrupted_submit(head: Head, work: Path, store: str) -> tuple[str, str]:
    """Submit, press Ctrl-C as soon as the job is known; its id, and what was said."""
    process = subprocess.Popen(
        submit(store),
        cwd=work,
        env=head.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A process that a shell has put into the background ignores Ctrl-C, and its children do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout
    first_line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    return first_line.split()[-1], first_line + errors
