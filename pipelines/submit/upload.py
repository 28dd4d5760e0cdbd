"""What of this machine reaches a job: the working directory, less what is left out of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import PathSpec, Pattern

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.distribution import PICTURES

EXCLUDES = (".git", ".venv", "runs", "tests", "benchmarks")
"""What no job needs at the top; .gitignore and .rayignore hold as well."""

PATTERNS = tuple(f"/{folder}" for folder in EXCLUDES)

READ = frozenset({".json", ".txt", ".jinja", ".model", ".safetensors", *PICTURES})
"""What is read of a model's folder, or of one of pictures; hidden files are not."""

IGNORE_GITIGNORE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
"""Where this is 1, Ray heeds .rayignore only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelling:
    """A file or folder that is uploaded."""

    path: str
    """Its path in the job's working directory."""
    digest: str
    """Of its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaysBehind:
    """A file or folder that no job would find."""

    why: str
    """The rest of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What an ignore file says, which holds in its folder and below."""

    source: str
    folder: Path
    spec: PathSpec[Pattern]

    @classmethod
    def in_folder(cls, folder: Path) -> "list[_Rules]":
        """Those that Ray heeds."""
        names = [".rayignore"]
        if os.environ.get(IGNORE_GITIGNORE) != "1":
            names.insert(0, ".gitignore")
        found = []
        for path in (folder / name for name in names):
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                spec = PathSpec.from_lines("gitignore", lines)
                found.append(cls(source=str(path), folder=folder, spec=spec))
        return found

    def leave_out(self, path: Path) -> bool:
        return self.spec.match_file(path.relative_to(self.folder).as_posix())


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A working directory that Ray packs and gives to a job."""

    working_dir: Path

    @classmethod
    def of(cls, working_dir: Path) -> "Upload":
        """The upload of a folder.

        Raises:
            UserError: it is none.
        """
        if not working_dir.is_dir():
            raise UserError(f"--working-dir {working_dir}: not a folder")
        return cls(working_dir=working_dir)

    def find(self, path: Path) -> Travelling | StaysBehind:
        """Where the job will have a file or folder of this machine.

        Of a folder, all files must travel that a job may read.
        """
        inside = self._inside(path)
        if inside is None:
            return StaysBehind(
                why=f"is not in --working-dir {self.working_dir}, so it would not reach the cluster"
            )
        root = self.working_dir.resolve()
        if not (root / inside).exists():
            return StaysBehind(why="is not there")
        try:
            digests = {}
            for file, rules in _files(root, inside):
                if rules is not None:
                    left_out = file.relative_to(root).as_posix()
                    return StaysBehind(
                        why=f"is not uploaded: {left_out} is left out by {rules.source}"
                    )
                digests[file.relative_to(root / inside).as_posix()] = digest_file(file)
        except OSError as error:
            return StaysBehind(why=f"cannot be read: {error}")
        return Travelling(path=inside.as_posix(), digest=digest_json(digests))

    def _inside(self, path: Path) -> Path | None:
        """The path below the working directory: as it is written, else by where links lead.

        What a link in the working directory leads to is uploaded under the link's name.
        """
        root = self.working_dir.resolve()
        # `Path.absolute` would keep dots, and `Path.resolve` follows links.
        for found in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100
            for folder in (found, *found.parents):
                if folder.resolve() == root:
                    return found.relative_to(folder)
        return None


def _files(root: Path, inside: Path) -> Iterator[tuple[Path, _Rules | None]]:
    """Each file at or below a path that a job may read, and the rules that leave it out."""
    spec = PathSpec.from_lines("gitignore", PATTERNS)
    rules = [_Rules(source=f"submit, with {', '.join(EXCLUDES)}", folder=root, spec=spec)]
    left_out_by = None
    for folder in (root / parent for parent in reversed(inside.parents)):
        rules = rules + _Rules.in_folder(folder)
        left_out_by = left_out_by or _first(rules, folder)
    yield from _below(root / inside, rules, left_out_by)


def _below(
    path: Path, rules: list[_Rules], left_out_by: _Rules | None
) -> Iterator[tuple[Path, _Rules | None]]:
    rules = rules + _Rules.in_folder(path)
    left_out_by = left_out_by or _first(rules, path)
    if path.is_file():
        yield path, left_out_by
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and (child.is_dir() or child.suffix in READ):
                yield from _below(child, rules, left_out_by)


def _first(rules: list[_Rules], path: Path) -> _Rules | None:
    """The first rules that leave a path out; Ray then leaves out all that is below it."""
    return next((each for each in rules if each.leave_out(path)), None)
