"""What goes between a process and the server that forks for it."""

import array
import json
import os
import resource
import socket
import struct
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

READ_AT_IMPORT = (
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "HF_", "TRANSFORMERS_", "DIFFUSERS_", "TORCH"),
    *("PYTORCH_", "CUDA_", "TOKENIZERS_", "LD_", "LANG", "LC_", "PYTHON"),
)
"""Starts of variables that a library, or Python, reads once: a fork cannot change these."""
READ_LATER = (
    *("PYTHONPATH", "HF_TOKEN"),
    # Which torch, this project's workers and Ray set for themselves, in the tests' processes too.
    *("TORCHINDUCTOR_CACHE_DIR", "HF_HUB_DISABLE_PROGRESS_BARS", "PYTHONBREAKPOINT"),
)
"""Of these, what is read where it is used, so that a fork can have it."""
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)


def surroundings() -> dict[str, object]:
    """What a fork has from the server, and so must be equal to that of the process it is for."""
    return {
        "prefix": [sys.prefix, sys.version],
        "user": [os.getuid(), os.getgid()],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "limits": [list(resource.getrlimit(limit)) for limit in LIMITS],
        "namespaces": [f"{(Path('/proc/self/ns') / name).readlink()}" for name in NAMESPACES],
        "read at import": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(READ_AT_IMPORT) and name not in READ_LATER
        },
    }


@dataclass(frozen=True)
class Job:
    """A process to become."""

    argv: list[str]
    """The program and its arguments, without options of Python's own."""
    executable: str
    path: list[str]
    """Where it imports from, without its own folder."""
    environment: dict[str, str]
    folder: str
    umask: int
    surroundings: dict[str, object]
    fds: list[int] = field(default_factory=list)

    @classmethod
    def of_this_process(cls, argv: list[str]) -> "Job":
        umask = os.umask(0)
        os.umask(umask)
        return cls(
            argv=argv,
            executable=sys.executable,
            path=sys.path.copy(),
            environment=dict(os.environ),
            folder=f"{Path.cwd()}",
            umask=umask,
            surroundings=surroundings(),
            fds=open_fds(),
        )

    def send(self, connection: socket.socket) -> None:
        text = json.dumps(asdict(self)).encode()
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.fds))]
        connection.sendmsg([struct.pack("=I", len(text))], passed)
        connection.sendall(text)

    @classmethod
    def receive(cls, connection: socket.socket) -> tuple["Job", list[int]]:
        """The job, and its open files as they are numbered here."""
        head, passed, _flags, _address = connection.recvmsg(4, socket.CMSG_SPACE(253 * 4))
        fds = array.array("i")
        for _level, _type, data in passed:
            fds.frombytes(data)
        if len(head) < 4:
            raise ValueError("nothing was asked")
        (size,) = struct.unpack("=I", head)
        text = b""
        while len(text) < size and (part := connection.recv(size - len(text))):
            text += part
        return cls(**json.loads(text)), fds.tolist()


def open_fds() -> list[int]:
    """This process's open files."""
    listed = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    # That of the listing itself is closed by now.
    return [fd for fd in listed if Path(f"/proc/self/fd/{fd}").is_symlink()]


def send_number(connection: socket.socket, number: int) -> None:
    connection.sendall(struct.pack("=i", number))


def receive_number(connection: socket.socket) -> int | None:
    """The other side's number; None if it has gone."""
    data = connection.recv(4, socket.MSG_WAITALL)
    return struct.unpack("=i", data)[0] if len(data) == 4 else None
