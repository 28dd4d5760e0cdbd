"""A fork of the tests' fork server is as the process that it stands for."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.forking.start import NAME, ROOT, SITE, real

MARKER = "colorsys"
"""A module that only the server has loaded, which tells its forks."""
PROGRAM = f"""
import atexit, json, os, sys
atexit.register(print, "at exit")
umask = os.umask(0)
print(json.dumps({{
    "name": __name__, "file": __file__, "argv": sys.argv, "orig_argv": sys.orig_argv,
    "path": sys.path, "executable": sys.executable, "folder": os.getcwd(), "umask": umask,
    "environment": dict(os.environ), "files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "input": sys.stdin.read(), "passed": os.read(int(sys.argv[2]), 100).decode(),
    "modules": sorted(name for name in sys.modules if name.partition(".")[0] == "tests"),
    "random": __import__("random").random(), "forked": {MARKER!r} in sys.modules,
}}), flush=True)
print("wrong", file=sys.stderr)
sys.exit(3)
"""
WAITING = f"""
import sys, time
print({MARKER!r} in sys.modules, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of processes for which a server forks, one that has loaded next to nothing."""
    address = tmp_path_factory.mktemp("server") / "0"
    command = [sys.executable, "-m", "tests.support.forking.server", f"{address}", MARKER]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
    while not address.exists():
        assert server.poll() is None
        time.sleep(0.02)
    yield {**os.environ, "TESTS_FORK_SERVERS": f"{address}", "PYTHONPATH": f"{SITE}"}
    server.communicate()
    assert server.returncode == 0


def program(folder: Path, code: str) -> Path:
    """A program that a fork may do, by its name."""
    path = folder / "conceptprune"
    path.write_text(code, "utf-8")
    return path


def test_a_fork_sees_what_a_started_process_sees(
    environment: dict[str, str], tmp_path: Path
) -> None:
    code = program(tmp_path, PROGRAM)

    def run(servers: str) -> tuple[dict[str, object], subprocess.CompletedProcess[str]]:
        inner, outer = os.pipe()
        os.write(outer, b"by a pipe")
        os.close(outer)
        done = subprocess.run(
            [sys.executable, f"{code}", "-a b", f"{inner}"],
            cwd=tmp_path,
            env={**environment, "TESTS_FORK_SERVERS": servers, "VALUE": "ä=1"},
            input="asked\n",
            text=True,
            capture_output=True,
            pass_fds=[inner],
            umask=0o27,
        )
        os.close(inner)
        first, _, rest = done.stdout.partition("\n")
        done.stdout = rest
        return json.loads(first), done

    (forked, its_end), (started, end) = run(environment["TESTS_FORK_SERVERS"]), run("")
    assert (forked.pop("forked"), started.pop("forked")) == (True, False)
    assert forked.pop("random") != started.pop("random")
    for seen in (forked, started):
        assert isinstance(seen["environment"], dict)
        del seen["environment"]["TESTS_FORK_SERVERS"]
    assert forked == started
    assert (its_end.returncode, its_end.stdout, its_end.stderr) == (3, "at exit\n", "wrong\n")
    assert (end.returncode, end.stdout, end.stderr) == (3, "at exit\n", "wrong\n")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_a_process_ends_its_fork_and_then_itself_as_if_it_were_one(
    environment: dict[str, str], tmp_path: Path, sent: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, f"{program(tmp_path, WAITING)}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "True\n"
            stand_in = psutil.Process(process.pid)
            while not stand_in.name().startswith(NAME):
                time.sleep(0.01)
            fork = real(stand_in)
            process.send_signal(sent)
            assert process.wait(60) == -sent
            fork.wait(60)
        finally:
            process.kill()


@pytest.mark.parametrize(
    "differs", [{"HF_HUB_OFFLINE": "perhaps"}, {"PYTHONHASHSEED": "1"}, {"OMP_NUM_THREADS": "7"}]
)
def test_a_process_that_differs_in_what_a_fork_cannot_take_over_does_its_work_itself(
    environment: dict[str, str], tmp_path: Path, differs: dict[str, str]
) -> None:
    code = program(tmp_path, f"import sys; print({MARKER!r} in sys.modules)")
    command = [sys.executable, f"{code}"]
    for environ, forks in ((environment, "True\n"), ({**environment, **differs}, "False\n")):
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        assert done.stdout == forks


@pytest.mark.parametrize(
    "set_by", [{"PYTHONBREAKPOINT": "ray.util.rpdb.set_trace"}, {"TORCHINDUCTOR_CACHE_DIR": "/tmp"}]
)
def test_what_ray_and_torch_set_by_themselves_keeps_no_process_from_a_fork(
    environment: dict[str, str], tmp_path: Path, set_by: dict[str, str]
) -> None:
    ((name, value),) = set_by.items()
    asked = f"import os, sys; print({MARKER!r} in sys.modules, os.environ[{name!r}])"
    done = subprocess.run(
        [sys.executable, f"{program(tmp_path, asked)}"],
        env={**environment, **set_by},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == f"True {value}\n"
