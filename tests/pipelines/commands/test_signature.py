"""A statement of provenance counts as signed only by an allowed signer, for this, and as it is."""

import json
import subprocess
from pathlib import Path

import pytest

from conceptprune.checkpoints.card import METADATA_FILE
from conceptprune.checkpoints.statement import SIGNATURE_FILE, STATEMENT_FILE, Statement, state
from conceptprune.errors import UserError
from pipelines.commands.signature import signature_problem
from pipelines.commands.verify import verify_export
from tests.conceptprune.masks.test_mask import make_mask, make_model


def keygen(*arguments: object) -> None:
    subprocess.run(["ssh-keygen", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def signers(tmp_path: Path, key: Path) -> Path:
    path = tmp_path / "signers"
    path.write_text(f"officer@example.org {key.with_suffix('.pub').read_text()}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    mask = make_mask(make_model(), "Ada", [5], [])
    mask.save(folder / "mask.safetensors")
    said = {"concepts": mask.concepts, "mask_digest": mask.digest, "model_digest": "m"}
    (folder / METADATA_FILE).write_text(json.dumps(said), encoding="utf-8")
    predicate = {
        "base_model": {"digest": "m"},
        "concepts": [{"concept": "Ada"}],
        "export": {"form": "mask", "mask_sha256": mask.digest},
    }
    (folder / STATEMENT_FILE).write_bytes(state(folder, predicate).to_bytes())
    return folder


def sign(folder: Path, key: Path, namespace: str = "conceptprune") -> None:
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    keygen("-Y", "sign", "-q", "-n", namespace, "-f", key, folder / STATEMENT_FILE)


def problems(folder: Path, signers: Path | None) -> tuple[str, ...]:
    (found,) = verify_export(folder, signers=signers)
    return found.problems


def test_a_signed_export_is_as_stated_and_its_signature_is_no_foreign_file(
    folder: Path, key: Path, signers: Path
) -> None:
    sign(folder, key)
    assert problems(folder, signers) == problems(folder, None) == ()


@pytest.mark.parametrize("who", ["*@example.org", "someone@x,officer@example.org", "*,!bad@x.org"])
def test_an_allowed_signer_may_be_named_by_a_pattern_or_in_a_list(
    folder: Path, key: Path, signers: Path, who: str
) -> None:
    signers.write_text(f"{who} {key.with_suffix('.pub').read_text()}")
    sign(folder, key)
    assert problems(folder, signers) == ()
    (folder / STATEMENT_FILE).write_bytes((folder / STATEMENT_FILE).read_bytes() + b"\n")
    assert "signature of provenance.json" in problems(folder, signers)[0]


def test_an_export_without_a_signature_is_refused_where_signers_are_named(
    folder: Path, signers: Path
) -> None:
    assert problems(folder, None) == ()
    assert "is missing" in "".join(problems(folder, signers))


def test_a_statement_that_was_written_anew_is_not_what_was_signed(
    folder: Path, key: Path, signers: Path
) -> None:
    sign(folder, key)
    (folder / "mask.safetensors").write_bytes(b"another's mask")
    said = Statement.from_bytes((folder / STATEMENT_FILE).read_bytes(), source="here").predicate
    (folder / STATEMENT_FILE).write_bytes(state(folder, said).to_bytes())
    assert "is not officer@example.org's signature" in "".join(problems(folder, signers))


def test_a_signature_of_a_stranger_or_for_something_else_does_not_count(
    folder: Path, key: Path, signers: Path, tmp_path: Path
) -> None:
    keygen("-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "stranger")
    sign(folder, tmp_path / "stranger")
    assert "is of no allowed signer" in "".join(problems(folder, signers))
    sign(folder, key, namespace="file")
    assert problems(folder, signers) != ()
    (folder / SIGNATURE_FILE).write_bytes(b"no signature")
    data = (folder / STATEMENT_FILE).read_bytes()
    assert "is of no allowed signer" in signature_problem(folder, data, signers)


def test_signers_that_are_not_there_are_said_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(UserError, match="--signers nowhere: no such file"):
        verify_export(folder, signers=Path("nowhere"))
