"""Let a fork of a warm process do what this process was started for; see `../server.py`.

Python imports this before anything else in every process that has this folder in its `PYTHONPATH`.
Such a process only stands for the fork: it hands on signals, and ends as the fork does.
"""

import importlib
import os
import sys
import time

XDIST = "import sys;exec(eval(sys.stdin.readline()))"
"""The program by which pytest-xdist starts each of its processes. They start when the servers do,
and wait for these to have loaded what they would load themselves, beside them."""
SECONDS = 120


def _is_heavy(argv: list[str]) -> bool:
    """Whether a program will need torch: one of the project's, or a worker of Ray's."""
    if len(argv) < 2:
        return False
    if argv[1] == "-c":
        return argv[2] == XDIST
    if argv[1] == "-m":
        return argv[2].partition(".")[0] in ("pipelines", "conceptprune_pipelines")
    return argv[1].rpartition("/")[2] in ("default_worker.py", "conceptprune")


def _ask() -> None:
    addresses = os.environ.get("TESTS_FORK_SERVERS", "").split(os.pathsep)
    address = addresses[os.getpid() % len(addresses)]
    argv = [one for one in sys.orig_argv if one != "-u"]
    if not _is_heavy(argv):
        return
    end = time.monotonic() + SECONDS * (argv[2:] == [XDIST])
    while not os.access(address, os.W_OK):
        if time.monotonic() >= end:
            return
        time.sleep(0.05)
    support = __file__.rpartition("/forking/site/")[0]
    sys.path.insert(0, support)
    try:
        ask = importlib.import_module("forking.client").ask
    finally:
        sys.path.remove(support)
    ask(address, argv)


_ask()
