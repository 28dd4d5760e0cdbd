"""Where fork servers run, Ray's workers are forks: else each imports torch anew, for 6 s of a core.

A variable in which the tests' process differs from the servers is enough to lose them all, and no
other test would show it but by the time it takes.
"""

import os

import psutil
import pytest
import ray


@pytest.mark.skipif("TESTS_FORK_SERVERS" not in os.environ, reason="they run with pytest-xdist")
def test_a_worker_of_ray_is_a_fork(cluster: None) -> None:
    @ray.remote
    def parent() -> list[str]:
        started_by = psutil.Process().parent()
        return started_by.cmdline() if started_by else []

    assert "tests.support.forking.server" in ray.get(parent.remote())
