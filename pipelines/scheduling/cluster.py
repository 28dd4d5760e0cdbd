"""The Ray cluster of a job: the current one, or a local one just for the job."""

import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import ray
from ray._private import ray_constants
from ray._private.gcs_utils import create_gcs_channel
from ray._private.state import state  # Only this shows which nodes are draining.
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from conceptprune.errors import ClusterError, UserError
from conceptprune.manifest import Compute

from ..console.logs import one_line
from ..console.stopping import sigterm_as_before

SECONDS_TO_ANSWER = 2.0
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_SPEAK = 30.0
TEMP_VARIABLE: Final = "RAY_TMPDIR"
TOKEN_VARIABLE: Final = "RAY_AUTH_TOKEN_PATH"
OWN_CLUSTER: Final = {
    "RAY_AUTH_MODE": "token",
    TOKEN_VARIABLE: "",
    # The only switch that makes Ray use 127.0.0.1 as its address, so that everything listens there.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Environment of the processes of a cluster on this machine only."""


_HOST_AND_PORT: Final = re.compile(r"\[?([^\s/]+?)\]?:(\d+)")


@contextmanager
def connected(compute: Compute) -> Iterator[bool]:
    """Connect to the cluster this process belongs to or `RAY_ADDRESS` names; else start one.

    Yields:
        Whether one was started: a cluster of one node, which never gets another.

    Raises:
        ClusterError: there is no cluster at `RAY_ADDRESS`, it cannot be joined, or a local one does
            not start.
        UserError: `RAY_ADDRESS` is the address of something else, or no actor would ever fit into
            the local cluster.
    """
    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS", "").strip()
    # "local" is Ray's word for a new cluster on this machine; its own would be open to others.
    if address in ("", "local"):
        # Logical CPUs for all actors and one task, however few cores there are: tasks are short,
        # and without a CPU they would wait forever.
        actor_cpus = ceil(compute.actors * compute.cpus_per_actor)
        cpus = max(os.cpu_count() or 1, actor_cpus + 1)
        with _own_cluster(cpus):
            try:
                check_fits(compute, ray.cluster_resources())
                yield True
            finally:
                ray.shutdown()
        return
    _join(address)
    try:
        yield False
    finally:
        ray.shutdown()


def check_fits(compute: Compute, machine: Mapping[str, float]) -> None:
    """Check that one actor fits into a cluster of one machine, which cannot grow.

    Raises:
        UserError: it does not, so the job would wait forever.
    """
    gpus = machine.get("GPU", 0.0)
    if compute.gpus_per_actor > gpus:
        raise UserError(
            f"compute.gpus_per_actor: {compute.gpus_per_actor:g}, but this machine has {gpus:g} "
            "GPUs and RAY_ADDRESS names no cluster; 0 runs on the CPU"
        )


def lack(compute: Compute, *, cpus: int, asked: int, alive: int, tasks: int) -> str | None:
    """What a cluster with `cpus` CPUs has no room for: the requested actors, or a task besides
    them.

    Only its operator knows whether that will change: a node may be starting.
    """
    if asked and not alive:
        return (
            f"no actor has started, each needs {compute.cpus_per_actor:g} CPUs and "
            f"{compute.gpus_per_actor:g} GPUs of one node"
        )
    if tasks and cpus - alive * compute.cpus_per_actor < 1:
        return f"the actors hold the cluster's {cpus} CPUs, and a task needs one besides them"
    return None


def check_address(address: str) -> None:
    """Check that a driver can join a cluster at an address.

    Raises:
        UserError: it is the address of the Jobs API or of Ray Client, or no address.
    """
    scheme, found, _ = address.partition("://")
    if found and scheme in ("http", "https"):
        raise UserError(
            f"RAY_ADDRESS={address}: is the address of the Jobs API, which is for `conceptprune "
            "submit`; this command runs where the cluster is: give HOST:PORT of the head (6379 as "
            "a rule), or unset RAY_ADDRESS to run on this machine alone"
        )
    if found:
        raise UserError(
            f"RAY_ADDRESS={address}: jobs do not run through Ray Client; use `conceptprune submit "
            "--address http://HOST:8265`, or give HOST:PORT of the head (6379 as a rule)"
        )
    if address != "auto" and not _HOST_AND_PORT.fullmatch(address):
        raise UserError(
            f"RAY_ADDRESS={address}: is not HOST:PORT; give those of the head, the port is 6379 as "
            "a rule, or unset RAY_ADDRESS to run on this machine alone"
        )


@contextmanager
def _own_cluster(cpus: int) -> Iterator[None]:
    """Start a cluster on this machine for this process: on the loopback, with its own token.

    All of its files are in a folder that only this user can enter, and are removed with it.
    """
    # Ray makes its own folder accessible to everybody, so it must be inside one that is not.
    try:
        folder = Path(tempfile.mkdtemp(prefix="cp-", dir=os.environ.get(TEMP_VARIABLE)))
    except OSError as error:
        raise ClusterError(
            f"no local Ray cluster could be started: no folder can be made in {TEMP_VARIABLE} or "
            f"the system's temporary folder ({error}); set it to a folder that you may write"
        ) from error
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    before = {name: os.environ.get(name) for name in OWN_CLUSTER}
    several = ray_constants.ENABLE_RAY_CLUSTER
    try:
        os.environ |= {**OWN_CLUSTER, TOKEN_VARIABLE: str(token)}
        # Ray read the variable at import; its processes will read it now.
        ray_constants.ENABLE_RAY_CLUSTER = False
        _read_authentication_again()
        try:
            with sigterm_as_before():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    _temp_dir=str(folder / "ray"),
                )
        except Exception as error:
            # Ray has no error type for these: an unusable folder, a port, a slow process.
            raise ClusterError(not_started(error, folder)) from error
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_authentication_again()
    # Only if nothing went wrong: otherwise its log may say why.
    shutil.rmtree(folder, ignore_errors=True)


def _read_authentication_again() -> None:
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def not_started(error: Exception, folder: Path) -> str:
    """Why a local cluster did not start, where its log is, and what to do."""
    reason = one_line(str(error)) or type(error).__name__
    if "AF_UNIX" in reason:
        # A socket's path may have 107 bytes, and Ray's own part takes more than half.
        fix = f"set {TEMP_VARIABLE} to a folder with a shorter path than {folder.parent}"
    else:
        fix = (
            "run it again; if that does not help, look for a full disk or /dev/shm, or for too "
            "many processes"
        )
    log = folder / "ray" / "session_latest" / "logs"
    return f"no local Ray cluster could be started: {reason}; {fix}. Its log is in {log}"


def _join(address: str) -> None:
    check_address(address)
    found = _HOST_AND_PORT.fullmatch(address)
    try:
        if found:
            # Ray itself retries for many minutes if nobody answers.
            socket.create_connection((found[1], int(found[2])), SECONDS_TO_CONNECT).close()
            _check_head(address)
        with sigterm_as_before():
            ray.init(address=address, log_to_driver=False)
    except ClusterError:
        raise
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}): start it, or unset "
            "RAY_ADDRESS to run on this machine alone; what is committed stays"
        ) from error
    except Exception as error:
        # Ray has no error type for these: another version, a token that is missing or wrong.
        raise ClusterError(
            f"RAY_ADDRESS={address}: this process cannot join that cluster: "
            f"{one_line(str(error)) or type(error).__name__}"
        ) from error


def _check_head(address: str) -> None:
    """Check that who answers speaks gRPC, as a cluster's head does; Ray would ask for minutes.

    Raises:
        ClusterError: nobody did.
    """
    channel = create_gcs_channel(address)
    try:
        grpc.channel_ready_future(channel).result(SECONDS_TO_SPEAK)
    except grpc.FutureTimeoutError as error:
        raise ClusterError(
            f"RAY_ADDRESS={address}: whoever answers there is not the head of a Ray cluster; give "
            "HOST:PORT of the head (6379 as a rule), or unset RAY_ADDRESS to run on this machine "
            "alone"
        ) from error
    finally:
        channel.close()


def is_up(node: str) -> bool:
    """Whether a node of the cluster is up at this moment.

    Ray only notices a dead node after several failed health checks. Until then the node counts as
    alive, although its workers are dead; but it no longer accepts connections.
    """
    return any(found["NodeID"] == node and _answers(found) for found in ray.nodes())


def any_is_up() -> bool:
    """Whether any node of the cluster is up at this moment."""
    return any(_answers(found) for found in ray.nodes())


def _answers(node: Mapping[str, Any]) -> bool:
    if not node["Alive"]:
        return False
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        socket.create_connection(address, SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


def ran_on(actor: str) -> str | None:
    """Id of the node on which an actor ran, dead or alive; None if it never ran."""
    found = state.actor_table(actor)
    node: str | None = found["Address"]["NodeID"] if found.get("StartTime") else None
    return node


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that an autoscaler or `ray drain-node` told to shut down."""
    return frozenset(state.get_draining_nodes())
