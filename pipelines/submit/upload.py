"""The files sent with a job: the code, its manifest or suite, and what these name.

Nothing else is sent, whatever is in the working directory: each file is looked up here, and copied
(`stage`) into a folder that Ray packs. So ignore files do not matter, and secrets such as `.env` or
a kubeconfig are never included in the first place.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.distribution import IMAGE_SUFFIXES
from conceptprune.strict_reading import read_regular

CODE = ("conceptprune", "pipelines")
"""The folders of a clone."""
JOBS = __name__.split(".", maxsplit=1)[0]
"""The package with the jobs, which is installed under another name than its folder's."""

READ = frozenset({".json", ".txt", ".jinja", ".model", ".safetensors", *IMAGE_SUFFIXES})
"""Suffixes of files to send from a folder with a model or images; hidden files are not sent."""

LEFT_OUT_BY_RAY = (".git", ".venv", "venv", "__pycache__")
"""At any depth, whatever the settings (RAY_RUNTIME_ENV_DEFAULT_EXCLUDES)."""
_OF_DATA = ("json", "yaml", "yml", "toml", "ini", "cfg", "txt", "csv")
SECRETS = (
    *(".env*", "*.env", ".envrc", ".aws", ".ssh", ".kube", ".docker", ".dockercfg", ".gnupg"),
    *(".netrc", "_netrc", ".config", ".azure", ".gcloud", "gcloud", ".gsutil", ".boto", ".s3cfg"),
    *(".passwd-s3fs", ".s3ql", "rclone.conf", ".mc", ".oci", ".doctl", ".databrickscfg"),
    *(".git-credentials", ".gitcredentials", ".npmrc", ".yarnrc*", ".pypirc", "pip.conf"),
    *(".htpasswd", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf", ".pg_service.conf"),
    *(".kaggle", "kaggle.json", ".huggingface", "hf_token*", "stored_tokens", ".wandb"),
    *(".vault-token", ".vault_pass*", "vault-password*", ".password-store", ".cargo", ".gem"),
    *(".terraform", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json", ".terraformrc"),
    *("*.pem", "*.key", "*.p12", "*.p8", "*.pfx", "*.jks", "*.keystore", "*.kdb", "*.kdbx"),
    *("*.ppk", "*.gpg", "*.asc", "*.pgp", "*.agekey", "id_rsa*", "id_dsa*", "id_ecdsa*"),
    *("id_ed25519*", "ssh_host_*_key", "*.ovpn", "*.keytab", "krb5cc_*"),
    *("kubeconfig*", "*.kubeconfig", "credentials", "*credentials*.json", "credentials.db"),
    *("*accesskeys.csv", "*credentials*.csv", "client_secret*.json", "*service?account*.json"),
    *("application_default_credentials.json", "secrets", "*.secret", "*.secrets"),
    *("auth_token", "token", "token.json", "*.token", "auth.json", ".authinfo*", ".condarc"),
    *(f"{name}.{of}" for name in ("secret", "secrets", "credentials") for of in _OF_DATA),
)
"""Names of files and folders that are never sent, even if they are named."""
KEYS_IN = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bPuTTY-User-Key-File|AGE-SECRET-KEY-1"
    rb"|[\"']?\b(?:private_key|client_secret|refresh_token|client-key-data|aws_secret_access_key"
    rb"|aws_session_token|secret_?access_?key|account_?key)\b[\"']?\s*[:=]\s*[\"']?[^\s\"',}]{8,}"
    rb"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{30,}\b|\bgh[opsur]_[A-Za-z0-9]{36,}\b",
    re.IGNORECASE,
)
"""What a file holds that is a secret whatever its name, such as a service account's JSON."""
LOOKED_INTO = frozenset({"", ".json", ".txt", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv"})
"""Suffixes of files that are looked into; programs only name such things."""
MOST_LOOKED_INTO = 2**20
"""Bytes of a file that is looked into: larger ones are vocabularies and prompts."""

LIMIT = 100 * 2**20
"""The most that Ray's dashboard accepts for one package (DASHBOARD_CLIENT_MAX_SIZE)."""
BYTES_PER_FILE = 256
"""Overhead of each file in a package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelling:
    """A file or folder to send."""

    path: str
    """Its path in the job's working directory."""
    files: Mapping[str, Path]
    """Its files: path in the job's working directory, and path here."""

    @property
    def digest(self) -> str:
        """Digest of the content, which has to be read, so only used once its size is known to be
        small.

        Raises:
            UserError: a file cannot be read.
        """
        try:
            return digest_json(
                {
                    PurePosixPath(there).relative_to(self.path).as_posix(): digest_file(here)
                    for there, here in self.files.items()
                }
            )
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StaysBehind:
    """A file or folder that a job would not find."""

    why: str
    """The rest of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The working directory whose files are sent to a job."""

    working_dir: Path

    @classmethod
    def of(cls, working_dir: Path) -> "Upload":
        """The upload from a folder.

        Raises:
            UserError: it is not a folder.
        """
        if not working_dir.is_dir():
            raise UserError(f"--working-dir {working_dir}: not a folder")
        return cls(working_dir=working_dir)

    @property
    def jobs(self) -> str:
        """The package with the jobs: that of the working directory, if it is a clone."""
        return CODE[1] if self._is_clone() else JOBS

    def code(self) -> Mapping[str, Path]:
        """The files of both packages: those of the clone, or otherwise the installed ones."""
        if self._is_clone():
            folders = {name: self.working_dir.resolve() / name for name in CODE}
        else:
            folders = {name: _installed(name) for name in (CODE[0], JOBS)}
        return {
            f"{name}/{file.relative_to(folder).as_posix()}": file
            for name, folder in folders.items()
            for file in _files(folder)
            if not (_never_travels(file.relative_to(folder)) or _holds_keys(file))
        }

    def left_out(self) -> list[str]:
        """What lies in the working directory, or among the code, and never travels."""
        beside = [Path(found.name) for found in sorted(self.working_dir.iterdir())]
        code = [
            file.relative_to(self.working_dir.resolve())
            for name in CODE
            if self._is_clone()
            for file in _files(self.working_dir.resolve() / name)
        ]
        keys = [path for path in code if _holds_keys(self.working_dir / path)]
        named = [path for path in (*beside, *code) if _is_secret(path)]
        return [path.as_posix() for path in dict.fromkeys((*named, *keys))]

    def _is_clone(self) -> bool:
        return all((self.working_dir / name / "__init__.py").is_file() for name in CODE)

    def find(self, path: Path) -> Travelling | StaysBehind:
        """Where the job will find a file or folder of this machine.

        Of a folder, only files that a job may read are sent.
        """
        inside = self._inside(path)
        if inside is None:
            return StaysBehind(
                why=f"is not in --working-dir {self.working_dir}, so it would not reach the cluster"
            )
        source = self.working_dir.resolve() / inside
        if not source.exists():
            return StaysBehind(why="is not there")
        try:
            found = [file for file in _files(source) if file == source or file.suffix in READ]
            files = {(inside / file.relative_to(source)).as_posix(): file for file in found}
            for there, here in files.items():
                if left_out := _never_travels(Path(there)):
                    return StaysBehind(
                        why=f"is not uploaded: {there} lies in, or is, {left_out}, which never is"
                    )
                if _holds_keys(here):
                    return StaysBehind(why=f"is not uploaded: {there} holds a key or a token")
        except OSError as error:
            return StaysBehind(why=f"cannot be read: {error}")
        return Travelling(path=inside.as_posix(), files=files)

    def folder(self, path: Path) -> str:
        """A folder's path for the job: relative to its working directory, or otherwise absolute."""
        inside = self._inside(path)
        return str(path.absolute()) if inside is None else inside.as_posix()

    def _inside(self, path: Path) -> Path | None:
        """The path below the working directory: as written, or otherwise with links resolved.

        The target of a link in the working directory is sent under the link's name.
        """
        root = self.working_dir.resolve()
        # `Path.absolute` would keep dots, and `Path.resolve` would follow links.
        for found in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100
            for folder in (found, *found.parents):
                if folder.resolve() == root:
                    return found.relative_to(folder)
        return None


def check_size(code: Mapping[str, Path], named: Mapping[str, Travelling]) -> None:
    """Check that Ray accepts the files, before they are packed.

    Sizes are those of the files: compression saves little on weights and images, and is not known
    in advance.

    Args:
        code: the files of the code.
        named: the other files to send, by the field that names them.

    Raises:
        UserError: it is too large; the message has the size, the limit and the largest part.
    """
    sizes = {what: _size(one.files) for what, one in named.items()}
    files = {there: here for one in named.values() for there, here in one.files.items()}
    total = _size(code) + _size(files)
    if total <= LIMIT:
        return
    message = f"what travels with the job has {_mib(total)}, and Ray takes {_mib(LIMIT)} at most"
    if sizes:
        largest = max(sizes, key=lambda what: sizes[what])
        message += (
            f"; the largest part is {largest} with {_mib(sizes[largest])}: give a model as "
            "`model: {uri: ...}`, or anything by the absolute path of a folder that every node has"
        )
    raise UserError(message)


def stage(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files of this machine into a folder, each to its path there."""
    for there, here in files.items():
        target = folder / there
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here, target)


def _installed(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise UserError(f"the package {name} is not installed as files, so it cannot be sent")
    return Path(found.origin).parent


def _files(path: Path) -> Iterator[Path]:
    """The file at a path, or all files below it that are not hidden."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and child.suffix != ".pyc":
                yield from _files(child)
    elif path.is_file():
        yield path


def _never_travels(path: Path) -> str | None:
    """The part of a path that keeps it here, if one does."""
    return _part_named(path, (*LEFT_OUT_BY_RAY, *SECRETS))


def _is_secret(path: Path) -> bool:
    return _part_named(path, SECRETS) is not None


def _holds_keys(file: Path) -> bool:
    if file.suffix.lower() not in LOOKED_INTO:
        return False
    try:
        data = read_regular(file, MOST_LOOKED_INTO)
    except ValueError:
        return False  # It is too large.
    return KEYS_IN.search(data) is not None


def _part_named(path: Path, names: tuple[str, ...]) -> str | None:
    """The first part of a path that one of the patterns fits."""
    fits = _one_of(names).fullmatch
    return next((part for part in path.parts if fits(part.lower())), None)


@cache
def _one_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """All patterns in one: a submission asks it for each part of each path."""
    return re.compile("|".join(translate(name) for name in names))


def _size(files: Mapping[str, Path]) -> int:
    return sum(here.stat().st_size + BYTES_PER_FILE for here in files.values())


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
