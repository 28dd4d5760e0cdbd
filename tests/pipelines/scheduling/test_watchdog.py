"""A driver whose cluster does not answer ends, and one that is at work does not."""

import subprocess
import sys

import pytest

from conceptprune.errors import ClusterError
from pipelines.scheduling.watchdog import LOOKS_AT_THE_LAST_NODE, LastNode, Patience

STANDS_STILL = """
import time
from pipelines.scheduling.watchdog import Watchdog
with Watchdog(seconds=1.2) as watchdog:
    for _ in range({beats}):
        watchdog.beat()
        time.sleep(0.1)
    time.sleep({silence})
"""


def run(**times: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STANDS_STILL.format(**times)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_that_stands_still_is_ended_and_says_why() -> None:
    ended = run(beats=0, silence=50)
    assert ended.returncode == 1
    assert "no answer from the Ray cluster" in ended.stderr


def test_a_process_that_goes_on_is_left_alone() -> None:
    assert run(beats=30, silence=0).returncode == 0


def test_a_job_whose_only_node_is_gone_for_good_ends_with_one_line() -> None:
    last_node = LastNode()
    for is_up in (*[False] * (LOOKS_AT_THE_LAST_NODE - 1), True):
        last_node.look(is_up)
    for _ in range(LOOKS_AT_THE_LAST_NODE - 1):
        last_node.look(False)
    with pytest.raises(ClusterError, match=r"has lost its node .*run again, what is done is kept"):
        last_node.look(False)


def test_a_wait_without_a_break_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience(seconds=0)
    patience.look("room")
    patience.look(None)
    patience.look("room")
    assert not caplog.messages
    patience.look("room")
    assert caplog.messages == ["waiting for room in the cluster: room"]
    caplog.clear()
    with_others = Patience(seconds=0, waiting_for="another job")
    with_others.look("mask a, which job b is computing")
    with_others.look("mask a, which job b is computing")
    assert caplog.messages == ["waiting for another job: mask a, which job b is computing"]
    patient = Patience()
    patient.look("room")
    patient.look("room")
    assert len(caplog.messages) == 1
