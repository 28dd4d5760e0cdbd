"""Planted credentials and a real run, on a real head and a real S3 server: they show nowhere.

Everything that the run leaves is read, byte by byte: the bucket, the Jobs API, the logs and
packages of the Ray session, what the commands print, the export and the report.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from conceptprune.store import Store
from pipelines.cli import main
from tests.end_to_end.head.conftest import HUB_TOKEN, Head, Story
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedServer

SESSION_TOKEN = "planted-session-token-that-must-show-nowhere"
SECRETS = (SECRET_KEY, ACCESS_KEY, HUB_TOKEN, SESSION_TOKEN)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one run left, by where it was found."""

    texts: dict[str, bytes]

    def showing(self, *more: str) -> list[tuple[str, str]]:
        return [
            (where, secret)
            for where, data in self.texts.items()
            for secret in (*SECRETS, *more)
            if secret.encode() in data
        ]


@pytest.fixture(scope="module")
def evidence(
    head: Head,
    story: Story,
    server: SeaweedServer,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Evidence:
    folder = tmp_path_factory.mktemp("secrets")
    texts = {"output of submit": story.printed.encode(), "head": head.started.encode()}
    erase = ("erase", str(story.work / "manifests" / "demo.yaml"), "--store", story.store)
    with pytest.MonkeyPatch.context() as patch:
        # No server here gives out session tokens, so one that is made up is refused: what is
        # said then, and what an error quotes, must not show it either.
        patch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
        texts["output of refused"] = said_here(*erase, code=1)
    delta = ("--as", "delta", "--out", str(folder / "delta"), "--model", str(tiny_folder))
    for words in (
        (*erase, "--log-format", "json"),
        ("status", story.store),
        ("gc", story.store),
        ("report", story.store, "--out", str(folder / "report.html")),
        ("export", story.store, "Ada Bell", *delta),
    ):
        texts[f"output of {words[0]}"] = said_here(*words)
    for path in ("/api/jobs/", "/api/v0/workers?detail=1", "/api/v0/runtime_envs?detail=1"):
        texts[path] = head.ask(path).encode()
    token = head.environment["RAY_AUTH_TOKEN_PATH"]
    texts |= files_below(head.state, story.work, folder, but=token)
    for path in server.client.find(BUCKET):
        texts[f"s3://{path}"] = path.encode() + server.client.cat_file(path)
    store = Store(story.store)
    texts["reprs"] = repr((store, vars(store), store._backend, store._backend.access)).encode()
    return Evidence(texts=texts)


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


def files_below(*folders: Path, but: str) -> dict[str, bytes]:
    """The files below some folders; the head is running, so that one may go while one looks."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and str(path) != but:
            with contextlib.suppress(FileNotFoundError):
                found[str(path)] = path.read_bytes()
    return found


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


def test_the_heads_token_shows_in_its_own_file_alone(head: Head, evidence: Evidence) -> None:
    assert evidence.showing(head.token) == []


def test_a_secret_that_did_show_would_be_found(evidence: Evidence) -> None:
    leaky = {**evidence.texts, "a log": f"key={SECRET_KEY}".encode()}
    shown = Evidence(texts=leaky).showing()
    assert ("a log", SECRET_KEY) in shown
