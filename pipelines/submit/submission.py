"""The request of `conceptprune submit` to the Jobs API: a command and its working directory.

The manifest or suite is in the working directory, and the store is one that every node sees. Files
that the manifest, the suite or `--of` names by a relative path are sent along. An absolute path
outside the working directory must exist on every node.
"""

import re
import shlex
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ray.job_submission import JobDetails

from conceptprune.digest import digest_json
from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import JobManifest
from conceptprune.evaluation.suite import Suite
from conceptprune.manifest.fields import NamedPath
from conceptprune.manifest.files import allow_files_from
from conceptprune.manifest.loading import load_with_paths
from conceptprune.redaction import holds_credentials, redacted
from conceptprune.store.uri import check_uri

from ..console.logs import log_format as checked_format
from .upload import StaysBehind, Travelling, Upload, check_size

Command = Literal["erase", "sweep", "tune", "evaluate", "attack"]
COMMANDS: tuple[Command, ...] = get_args(Command)
ON_SUITES: tuple[Command, ...] = ("evaluate", "attack")


ELSEWHERE = "move it elsewhere in the working directory"
ABSOLUTE = "or give an absolute path that every node has"


TEXT_FIELDS = ("file", "csv", "captions", "concepts", "retain")
"""Fields that name a file of prompts, or of concepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of the Jobs API, ready to be made; it contains no secrets."""

    run: str
    """The submission id of the run's first job; later jobs have -2, -3, ... after it."""
    entrypoint: str
    files: Mapping[str, Path]
    """All that travels: paths in the job's working directory, and here."""
    left_out: tuple[str, ...] = ()
    """What lies there and does not travel, because it is named as secrets are."""

    @classmethod
    def of(
        cls,
        file: Path,
        store: str,
        working_dir: Path,
        log_format: str | None = None,
        *,
        command: Command = "erase",
        of: Sequence[str] = (),
        attacks: Sequence[str] = (),
        suite: Path | None = None,
        tuning: Mapping[str, float | str] | None = None,
        files_from: Sequence[Path] = (),
    ) -> "Submission":
        """The call for a manifest or suite and a store, and the format of the job's log.

        `suite` and `tuning` are of `tune`: the suite that chooses, and options by their names.

        Raises:
            UserError: the file or an argument is wrong; it, the store, or something that they name
                is out of a cluster's reach; or it is more than Ray takes.
        """
        tuning = tuning or {}
        _check_arguments(command, of, attacks)
        _check_tuning(command, suite, tuning)
        # The command line decides what is sent along, so it may also name prompts.
        allow_files_from((*files_from, working_dir))
        documents = [_Document.of(file, command)]
        if suite is not None:
            documents.append(_Document.of(suite, "evaluate"))
            _check_values(tuning.get("values"), documents[0])
        named = [one for document in documents for one in document.named]
        _check_store(store)
        upload = Upload.of(working_dir)
        travelling = [
            _must_travel(upload, document.file, f"{document.file}", ELSEWHERE)
            for document in documents
        ]
        places = {
            found: travels
            for document in documents
            for found, travels in _travelling_with(document.file, document.named, upload).items()
        }
        checkpoints = [_checkpoint(text, upload) for text in of]
        code = upload.code()
        parts = {
            **{f"{each.file}": one for each, one in zip(documents, travelling, strict=True)},
            **{one.written: places[one.found] for one in named if one.found in places},
            **{f"--of {text}": found for text, found in checkpoints if found},
        }
        check_size(code, parts)
        words = ["python", "-m", f"{upload.jobs}.{command}", *(one.path for one in travelling)]
        words += ["--store", store]
        words += [word for text, _ in checkpoints for word in ("--of", text)]
        words += [word for name in attacks for word in ("--attack", name)]
        words += [word for name, value in tuning.items() for word in (f"--{name}", f"{value}")]
        folders = [upload.folder(place) for place in files_from]
        if any(document.has_texts_elsewhere for document in documents):
            folders = [".", *folders]
        words += [word for folder in folders for word in ("--files-from", folder)]
        if log_format is not None:
            words += ["--log-format", checked_format(log_format)]
        entrypoint = shlex.join(words)
        if redacted(entrypoint) != entrypoint:
            raise UserError(
                "submit: an argument holds a secret of this machine (a key, a token or a password, "
                "of its environment or profile), which would be shown on the dashboard"
            )
        asked = {
            "command": command,
            "content": _relocated(documents[0].content, places),
            "store": store,
            "of": [(text, found.digest if found else "") for text, found in checkpoints],
            "attacks": list(attacks),
        }
        if suite is not None:
            asked |= {"suite": _relocated(documents[1].content, places), "tuning": dict(tuning)}
        return cls(
            run="conceptprune-" + digest_json(asked)[:16],
            entrypoint=entrypoint,
            files=dict(ChainMap(dict(code), *(dict(part.files) for part in parts.values()))),
            left_out=tuple(upload.left_out()),
        )

    def live(self, jobs: Iterable[JobDetails]) -> JobDetails | None:
        """The waiting or running job of this run, among all jobs of the cluster."""
        return next((job for _, job in self._own(jobs) if not job.status.is_terminal()), None)

    def next_id(self, jobs: Iterable[JobDetails]) -> str:
        """The id of the run's next job."""
        last = max((number for number, _ in self._own(jobs)), default=0)
        return f"{self.run}-{last + 1}" if last else self.run

    def _own(self, jobs: Iterable[JobDetails]) -> Iterator[tuple[int, JobDetails]]:
        for job in jobs:
            match = re.fullmatch(re.escape(self.run) + r"(?:-(\d+))?", job.submission_id or "")
            if match:
                yield int(match[1] or 1), job


def command_and_file(first: str, file: Path | None) -> tuple[Command, Path]:
    """Parse `MANIFEST` (for `erase`), or `COMMAND FILE`.

    Raises:
        UserError: there is no such command, or nothing for it to run.
    """
    if file is None and (first not in COMMANDS or Path(first).is_file()):
        return "erase", Path(first)
    for command in COMMANDS:
        if first == command and file is not None:
            return command, file
    wrong = f"{first}: no file is given" if file is None else f"{first} {file}: no such command"
    raise UserError(
        f"submit {wrong}; give a manifest, or one of {', '.join(COMMANDS)} and what it runs on"
    )


def refuse_credentials(option: str, url: str) -> None:
    """Refuse a URL that holds credentials.

    Raises:
        UserError: it does; the message does not repeat it.
    """
    if holds_credentials(url):
        raise UserError(
            f"{option}: no credentials in a URL, it is shown in logs and on the dashboard"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A manifest or suite that a command runs on."""

    file: Path
    content: Any
    named: tuple[NamedPath, ...]
    """The files and folders that it names."""

    @classmethod
    def of(cls, file: Path, command: Command) -> "_Document":
        """Read and check it as the command does."""
        schema: type[JobManifest | Suite] = Suite if command in ON_SUITES else JobManifest
        checked, named = load_with_paths(file, schema)
        if command == "sweep" and isinstance(checked, JobManifest):
            # Imported here and below because these import torch.
            from ..jobs.preparation import check_sweep

            check_sweep(checked, file)
        content = checked.model_dump(mode="json", exclude={"compute"})
        return cls(file=file, content=content, named=named)

    @property
    def has_texts_elsewhere(self) -> bool:
        """Whether it names text files that do not lie below its own folder."""
        beside = self.file.parent.resolve()
        texts = [Path(one.found).resolve() for one in self.named if one.field in TEXT_FIELDS]
        return not all(path.is_relative_to(beside) for path in texts)


def _check_store(store: str) -> None:
    check_uri(store)
    if "://" not in store and not store.startswith("/"):
        raise UserError(
            f"--store {store}: a relative folder would be lost with the job's working directory; "
            "give an absolute path of a folder that every node has, or s3://..."
        )


def _check_arguments(command: Command, of: Sequence[str], attacks: Sequence[str]) -> None:
    if command in ON_SUITES and not of:
        raise UserError("--of: name at least one checkpoint, such as --of base")
    if command not in ON_SUITES and of:
        raise UserError(f"--of is for {' and '.join(ON_SUITES)}, and this is {command}")
    if command == "attack":
        from conceptprune.attacks.table import check_names

        check_names(attacks)
    elif attacks:
        raise UserError(f"--attack is for attack, and this is {command}")


def _check_tuning(command: Command, suite: Path | None, tuning: Mapping[str, float | str]) -> None:
    if command != "tune":
        if suite is not None:
            raise UserError(f"submit {command} takes one file, not also {suite}")
        if tuning:
            raise UserError(f"--{next(iter(tuning))} is for tune, and this is {command}")
        return
    if suite is None:
        raise UserError("submit tune: give a manifest, and the suite that chooses its strengths")
    from ..jobs.strengths import check_shares

    check_shares(float(tuning.get("gone", 0)), float(tuning.get("hold", 1)))


def _check_values(values: float | str | None, manifest: _Document) -> None:
    from ..jobs.strengths import read_strengths

    if values is not None:
        read_strengths(f"{values}", reworded=manifest.content["method"] == "reword")


def _must_travel(upload: Upload, path: Path, what: str, instead: str) -> Travelling:
    found = upload.find(path)
    if isinstance(found, StaysBehind):
        raise UserError(f"{what} {found.why}; {instead}")
    return found


def _travelling_with(
    file: Path, named: Sequence[NamedPath], upload: Upload
) -> Mapping[str, Travelling]:
    """Files that a manifest or suite names by relative paths, which also work in the job's copy."""
    return {
        one.found: _must_travel(
            upload,
            Path(one.found),
            f"{file}: {one.field}: {one.written}",
            f"{ELSEWHERE}, {ABSOLUTE}",
        )
        for one in named
        if not Path(one.written).is_absolute()
    }


def _checkpoint(text: str, upload: Upload) -> tuple[str, Travelling | None]:
    """The job's value of `--of`, and the files to send for it, if any."""
    from conceptprune.evaluation.checkpoint import is_mask_file, parse_of

    refuse_credentials("--of", text)
    asked = parse_of(text)
    if asked.kind == "base" or (asked.kind == "mask" and not is_mask_file(asked.value)):
        return text, None
    if "://" in asked.value:
        raise UserError(f"--of {text}: a checkpoint is a file or folder, not a URI")
    path = Path(asked.value)
    found = upload.find(path)
    if isinstance(found, StaysBehind):
        if path.is_absolute():
            return text, None
        raise UserError(f"--of {text} {found.why}; {ELSEWHERE}, {ABSOLUTE}")
    label = "" if asked.label is None else f"{asked.label}="
    return f"{label}{asked.kind}:{found.path}", found


def _relocated(value: Any, places: Mapping[str, Travelling]) -> Any:
    """A document's content, in which uploaded files are replaced by their path in the job and
    digest.

    So the same submission from another machine has the same id, and one with other prompts in the
    same file has another.
    """
    match value:
        case str() if value in places:
            return [places[value].path, places[value].digest]
        case list():
            return [_relocated(one, places) for one in value]
        case dict():
            return {key: _relocated(one, places) for key, one in value.items()}
    return value
