"""A dozen secrets of this process, and every place that text is written to."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conceptprune.errors import UserError
from conceptprune.store import Store
from conceptprune.units.commit import Done, Held
from conceptprune.units.unit import Unit
from pipelines.cli import main
from pipelines.console.logs import configure, one_line
from pipelines.console.terminal import complain, echo, tell_traceback
from pipelines.records.ledger import ledger_rows, open_ledger, write_ledger
from pipelines.scheduling.loop import Result
from pipelines.scheduling.workers import DenoiserActor
from pipelines.submit.submission import Submission
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied

MARK = "PLANTED"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": f"{MARK}id",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/secret+key",
    "AWS_SESSION_TOKEN": f"{MARK}session",
    "HF_TOKEN": f"{MARK}hub",
    "RAY_AUTH_TOKEN": f"{MARK}ray",
    "GITHUB_TOKEN": f"{MARK}github",
    "DB_PASSWORD": f"{MARK}database",
    "SERVICE_API_KEY": f"{MARK}service",
}
URLS = {
    "HF_ENDPOINT": f"https://me:{MARK}endpoint@hub.example",
    "HTTP_PROXY": f"http://me:{MARK}proxy@proxy.example:3128",
}
PROFILE = {"aws_secret_access_key": f"{MARK}/of+profile", "aws_session_token": f"{MARK}profile2"}

TEXT = "refused: " + ", ".join([*VARIABLES.values(), *URLS.values(), *PROFILE.values()])
TEXT += f", {MARK}endpoint, {MARK}proxy, s3://key:{MARK}@bucket/x?signature={MARK}"


@pytest.fixture(autouse=True)
def planted(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("home")
    profile = folder / "credentials"
    lines = [f"{name} = {value}" for name, value in PROFILE.items()]
    profile.write_text("\n".join(["[night]", *lines]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    for name, value in (VARIABLES | URLS).items():
        monkeypatch.setenv(name, value)


def everything_below(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        yield str(path).encode()
        if path.is_file():
            yield path.read_bytes()


@pytest.mark.parametrize("form", ["plain", "json"])
def test_no_log_and_no_message_has_one(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json" if form == "json" else "plain")
    try:
        try:
            raise OSError(TEXT)
        except OSError as error:
            logging.getLogger("conceptprune.test").warning(TEXT, exc_info=True)
            complain(error)
            tell_traceback(type(error), error, error.__traceback__)
        echo(TEXT)
        echo(one_line(TEXT), err=True)
    finally:
        configure("plain")
    out, err = capsys.readouterr()
    assert "refused" in out
    assert "refused" in err
    assert MARK not in out + err


class Refusing:
    """A worker whose service echoes all that it was sent."""

    run_id = "r"

    def build(self) -> "Refusing":
        return self

    def run_claimed(self, unit: Unit) -> Done | Held:
        try:
            raise ConnectionError(TEXT)
        except ConnectionError as error:
            raise UserError(TEXT) from error


def test_a_worker_tells_its_driver_none(tiny_store: TinyStore) -> None:
    unit = next(iter(tiny_store.plan.units()))
    with pytest.raises(UserError, match="refused") as told:
        DenoiserActor(Refusing()).run(unit)
    assert MARK not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


def test_a_ledger_has_none_as_it_is_written_and_as_an_older_one_is_read(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store, plan = Store(str(tmp_path / "store")), tiny_store.plan
    unit = next(iter(plan.units()))
    failed = Result(unit=unit, status="failed", attempts=1, error=TEXT)
    rows = ledger_rows(plan, todo=set(), results={unit.key: failed}, reused={})
    write_ledger(store, plan.run, rows)
    assert "refused" in rows[0]["error"]
    assert not any(MARK.encode() in data for data in everything_below(tmp_path))
    rows[0]["error"] = TEXT
    write_ledger(store, plan.run, rows)
    assert "refused" in open_ledger(store, plan.run).rows[0]["error"]
    assert MARK not in str(open_ledger(store, plan.run).rows)


def test_no_command_writes_one_anywhere(
    tiny_store: TinyStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each command, where it works and where it fails with a secret in what it is given."""
    store = copied(tiny_store, tmp_path / "store").uri
    # A ledger of before, in which a service said it.
    opened = Store(store)
    rows = open_ledger(opened, tiny_store.plan.run).rows
    rows[0] |= {"status": "failed", "error": TEXT}
    out = tmp_path / "out"
    out.mkdir()
    manifest, model = str(tiny_store.manifest), str(tiny_store.model)
    uri = f"s3://key:{MARK}@bucket/model"
    bad = tmp_path / "bad.yaml"
    content = yaml.safe_load(tiny_store.manifest.read_text())
    bad.write_text(yaml.safe_dump({**content, "model": {"uri": uri}}))
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump({"version": 1, "model": {"uri": uri}}))
    write_ledger(opened, tiny_store.plan.run, rows)
    commands = [
        ["init", str(out / "new.yaml")],
        ["schema", "manifest"],
        ["diff", manifest, manifest],
        ["validate", manifest],
        ["validate", str(bad)],
        ["plan", manifest, "--store", store],
        ["plan", str(bad), "--json"],
        ["status", store],
        ["status", store, "--json"],
        ["status", uri],
        ["report", store, "--out", str(out / "report.html")],
        ["report", store, "--out", str(out / "site")],
        ["export", store, CONCEPTS[0], "--as", "mask", "--model", model, "--out", str(out / "e")],
        ["export", store, f"{MARK}hub", "--out", str(out / "none")],
        ["verify", str(out / "e"), "--store", store],
        ["verify", "--store", uri],
        ["verify", "--store", store, "--event", f"{MARK}hub"],
        ["gc", store],
        ["gc", store, "--forget", f"{MARK}hub"],
        ["erase", str(bad), "--store", store],
        ["erase", manifest, "--store", uri],
        ["sweep", str(bad), "--store", store],
        ["tune", str(bad), str(suite), "--store", store],
        [
            "tune",
            manifest,
            str(suite),
            "--store",
            store,
            "--out",
            str(out / f"{MARK}hub" / "t.yaml"),
        ],
        ["evaluate", str(suite), "--store", store, "--of", f"delta:{uri}"],
        ["attack", str(suite), "--store", store, "--of", "base", "--attack", f"{MARK}hub"],
        ["submit", manifest, "--store", uri],
        ["submit", manifest, "--store", f"s3://b/{MARK}hub", "--working-dir", str(out)],
        ["submit", manifest, "--store", "s3://b/c", "--address", f"http://{MARK}:x@h"],
        ["baseline", "esd", f"{MARK}hub.pt", manifest, "--out", str(out / "b")],
    ]
    before = sys.excepthook
    for command in commands:
        with contextlib.suppress(SystemExit):
            main(command)
    sys.excepthook = before
    said = "".join(capfd.readouterr())
    assert "<HF_TOKEN>" in said
    assert "://<credentials>@" in said
    assert (out / "site" / "index.html").is_file()
    assert MARK not in said
    written = [data for data in everything_below(out) if MARK.encode() in data]
    assert not written


def test_submit_refuses_an_argument_that_is_one(tiny_store: TinyStore) -> None:
    folder = tiny_store.manifest.parent
    with pytest.raises(UserError, match="holds a secret") as refused:
        Submission.of(tiny_store.manifest, f"s3://b/{MARK}hub", folder)
    assert MARK not in str(refused.value)
    assert json.dumps(Submission.of(tiny_store.manifest, "s3://b/c", folder).entrypoint)


def test_what_the_parser_says_of_wrong_arguments_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = VARIABLES["HF_TOKEN"]
    for arguments in (["status", "store", hub], ["validate", f"--{hub}"], [hub]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "<HF_TOKEN>" in said
        assert MARK not in said
