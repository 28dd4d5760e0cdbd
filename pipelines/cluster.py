"""The Ray cluster of a job: the one at hand, or a local one for the job only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import ray
from ray._private.state import state  # Ray shows nowhere else which nodes are being drained.

from conceptprune.manifest import Compute


@contextmanager
def connected(compute: Compute) -> Iterator[None]:
    """Connect to the cluster this process belongs to or `RAY_ADDRESS` names; else start one."""
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        # Logical CPUs for every actor and for a task beside them, however few cores there are:
        # tasks are short, and without one of their own they would wait for ever.
        actor_cpus = ceil(compute.actors * compute.cpus_per_actor)
        cpus = max(os.cpu_count() or 1, actor_cpus + 1)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> frozenset[str]:
    """Ids of the cluster's nodes that are up."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that were told to go, by an autoscaler or by `ray drain-node`."""
    return frozenset(state.get_draining_nodes())
