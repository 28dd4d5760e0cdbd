"""The Ray cluster of a job: the one at hand, or a local one for the job only."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import ray
from ray._private.state import state  # Ray shows nowhere else which nodes are being drained.

from conceptprune.manifest import Compute

SECONDS_TO_ANSWER = 2.0


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


def is_up(node: str) -> bool:
    """Whether a node of the cluster is up at this moment.

    Ray finds out by health checks that fail for a while. Until then a node that has just died
    counts as alive, with all of its workers dead; but it no longer takes a connection.
    """
    for found in ray.nodes():
        if found["NodeID"] == node and found["Alive"]:
            address = (found["NodeManagerAddress"], found["NodeManagerPort"])
            try:
                socket.create_connection(address, SECONDS_TO_ANSWER).close()
            except OSError:
                return False
            return True
    return False


def ran_on(actor: str) -> str | None:
    """Id of the node on which an actor ran, dead or alive; None where it never ran."""
    found = state.actor_table(actor)
    node: str | None = found["Address"]["NodeID"] if found.get("StartTime") else None
    return node


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that were told to go, by an autoscaler or by `ray drain-node`."""
    return frozenset(state.get_draining_nodes())
