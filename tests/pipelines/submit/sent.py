"""What tests submit, and what travels with it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import pipelines
from pipelines.submit.submission import Command, Submission

STORE = "s3://bucket/store"
MANIFEST = {
    "version": 1,
    "model": {"builtin": "studio"},
    "concepts": [{"name": "Ada Bell", "kind": "style"}],
}
SUITE = {
    "version": 1,
    "name": "mine",
    "model": {"builtin": "studio"},
    "groups": {"erased": [{"name": "nudity", "csv": "../data/prompts.csv"}]},
    "scorers": [{"scorer": "studio-judge"}],
}
MASK = "mask:masks/ada.safetensors"
HERE = ("--files-from", ".")
"""Prompts of the suite are not beside it, and in what travels."""
CODE = ("conceptprune", pipelines.__name__)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write(path: Path, content: dict[str, Any], **changes: Any) -> Path:
    # Through JSON, for values that occur twice would become aliases, which are refused.
    return put(path, yaml.safe_dump(json.loads(json.dumps({**content, **changes}))))


def submission(
    *of: str,
    file: str = "suites/s.yaml",
    command: Command = "evaluate",
    store: str = STORE,
    attacks: Sequence[str] = (),
    suite: str | None = None,
    tuning: dict[str, float | str] | None = None,
    log_format: str | None = None,
) -> Submission:
    return Submission.of(
        Path(file),
        store,
        Path(),
        log_format,
        command=command,
        of=of,
        attacks=attacks,
        suite=Path(suite) if suite else None,
        tuning=tuning,
    )


def tuning(**options: float | str) -> Submission:
    return submission(
        file="manifests/m.yaml", command="tune", suite="suites/s.yaml", tuning=options
    )


def named(submission: Submission) -> set[str]:
    """What travels beside the code."""
    return {path for path in submission.files if path.split("/")[0] not in CODE}
