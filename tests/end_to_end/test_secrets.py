"""Planted credentials and a real job, on a real head and a real S3 server: they show nowhere.

Everything that a job leaves is read, byte by byte: the bucket, the Jobs API, the logs and packages
of the Ray session, what the commands print, the export and the report.
"""

import contextlib
import io
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from conceptprune.store import Store
from pipelines.cli import main
from tests.support.s3_server import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    SeaweedServer,
    free_ports,
    running_server,
    use_server,
)

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
HUB_TOKEN = "planted-hub-token-that-must-show-nowhere"
SESSION_TOKEN = "planted-session-token-that-must-show-nowhere"
SECRETS = (SECRET_KEY, ACCESS_KEY, HUB_TOKEN, SESSION_TOKEN)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one job left, by where it was found."""

    store: Store
    server: SeaweedServer
    texts: dict[str, bytes]

    def showing(self) -> list[tuple[str, str]]:
        return [
            (where, secret)
            for where, data in self.texts.items()
            for secret in SECRETS
            if secret.encode() in data
        ]


@pytest.fixture(scope="module")
def evidence(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    folder = tmp_path_factory.mktemp("secrets")
    # Short, because the path of a socket may have 107 characters only.
    session = Path(tempfile.mkdtemp(prefix="ray-"))
    patch = pytest.MonkeyPatch()
    with running_server() as server:
        use_server(patch, server.endpoint)
        patch.setenv("HF_TOKEN", HUB_TOKEN)
        try:
            yield gather(folder, session, server, tiny_folder)
        finally:
            patch.undo()
            shutil.rmtree(session, ignore_errors=True)


def gather(folder: Path, session: Path, server: SeaweedServer, model: Path) -> Evidence:
    """Start a head, run the job on it, and collect everything that can be seen of it."""
    port, dashboard = free_ports(2)
    token = secrets.token_hex(32)
    (folder / "token").write_text(token, encoding="utf-8")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_worker_niceness": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    work = folder / "work"
    write_manifest(work / "manifest.yaml", model)
    uri = f"s3://{BUCKET}/secrets"
    address = f"http://127.0.0.1:{dashboard}"
    head_log = folder / "head.log"
    texts: dict[str, bytes] = {}

    with head_log.open("wb") as log:
        head = subprocess.Popen(
            [
                *(str(BIN / "ray"), "start", "--head", "--block", f"--port={port}"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=3"),
                "--dashboard-agent-listen-port=0",
                *(f"--temp-dir={session}", "--disable-usage-stats"),
            ],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_for(head, head_log, "Ray runtime started")
        command = [str(BIN / "conceptprune"), "submit", "manifest.yaml", "--store", uri]
        submitted = subprocess.run(
            [*command, "--address", address],
            cwd=work,
            env=environment,
            capture_output=True,
            timeout=250,
            check=False,
        )
        texts["output of submit"] = submitted.stdout + submitted.stderr
        assert submitted.returncode == 0, texts["output of submit"].decode()
        erase = ("erase", str(work / "manifest.yaml"), "--store", uri)
        with pytest.MonkeyPatch.context() as patch:
            # No server here gives out session tokens, so one that is made up is refused: what is
            # said then, and what an error quotes, must not show it either.
            patch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
            texts["output of refused"] = said_here(*erase, code=1)
        delta = ("--as", "delta", "--out", str(work / "delta"), "--model", str(model))
        for words in (
            (*erase, "--log-format", "json"),
            ("status", uri),
            ("gc", uri),
            ("report", uri, "--out", str(work / "report.html")),
            ("export", uri, "Ada Bell", *delta),
        ):
            texts[f"output of {words[0]}"] = said_here(*words)
        for path in ("/api/jobs/", "/api/v0/workers?detail=1", "/api/v0/runtime_envs?detail=1"):
            request = Request(address + path, headers={"Authorization": f"Bearer {token}"})
            with urlopen(request, timeout=60) as answer:
                texts[path] = answer.read()
    finally:
        head.terminate()
        head.wait(timeout=60)
    texts |= {str(path): path.read_bytes() for path in files_below(session, work)}
    texts["head"] = head_log.read_bytes()
    for path in server.client.find(BUCKET):
        texts[f"s3://{path}"] = path.encode() + server.client.cat_file(path)
    store = Store(uri)
    texts["reprs"] = repr((store, vars(store), store._backend, store._backend.access)).encode()
    return Evidence(store=store, server=server, texts=texts)


def said_here(*words: str, code: int = 0) -> bytes:
    """What a command prints that starts no process; run in this one, which saves a start."""
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as stop,
    ):
        main(list(words))
    assert (stop.value.code or 0) == code, said.getvalue()
    return said.getvalue().encode()


def write_manifest(path: Path, model: Path) -> None:
    content = {
        "version": 1,
        "model": {"folder": str(model)},
        "concepts": [{"name": "Ada Bell", "kind": "style", "fillers": ["cat", "car"]}],
        "collection": {"steps": 4, "tau": 2, "dtype": "float32", "device": "cpu"},
        "pruning": {"sparsity": 0.02},
        "outputs": {"deltas": True, "preview": {"seeds": [0], "steps": 1}},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
    }
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def wait_for(head: subprocess.Popen[bytes], log: Path, sign: str) -> None:
    for _ in range(450):
        if sign in log.read_text(errors="replace"):
            return
        assert head.poll() is None, log.read_text(errors="replace")
        try:
            head.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(log.read_text(errors="replace"))


def files_below(*folders: Path) -> list[Path]:
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]


def test_the_evidence_is_of_a_whole_job(evidence: Evidence) -> None:
    """Else nothing would be found because nothing was looked at."""
    places = list(evidence.texts)
    for wanted in (
        "/commits/mask/",
        "/runs/run=",
        "run.json",
        "ledger.parquet",
        "/objects/neurons/",
        "/logs/job-driver-",
        "/logs/worker-",
        "runtime_env",
        "report.html",
        "delta/README.md",
        "output of submit",
    ):
        assert any(wanted in place for place in places), wanted
    assert b"pipelines.erase" in evidence.texts["/api/jobs/"]
    assert b"1/1 concepts" in evidence.texts["output of submit"]


def test_no_planted_secret_shows_anywhere(evidence: Evidence) -> None:
    assert evidence.showing() == []


def test_a_secret_that_did_show_would_be_found(evidence: Evidence) -> None:
    leaky = {**evidence.texts, "a log": f"key={SECRET_KEY}".encode()}
    shown = Evidence(store=evidence.store, server=evidence.server, texts=leaky).showing()
    assert ("a log", SECRET_KEY) in shown
