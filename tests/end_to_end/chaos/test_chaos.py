"""Harm done to real jobs while they run: the masks are the same bytes, and little is done twice.

`python -m pytest tests/end_to_end/chaos --chaos-long` does all of it with several seeds and prints
what it cost; without the option a few scenarios run once. A seed decides when the harm is done,
in units committed by then, and to which process. What was begun more than once is counted from
outside (`witness.py`), and may only be what was in flight.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conceptprune.store.claims import CLAIM_SECONDS, Claim
from conceptprune.units.units import MaskUnit
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.scheduling.watchdog import SECONDS_OF_SILENCE
from tests.end_to_end.chaos.conftest import ARTISTS, Judge, MakeScene, Nodes, Write
from tests.end_to_end.chaos.scene import Scene

pytestmark = pytest.mark.timeout(600)

UV = Path(sys.executable).with_name("uv")
SECONDS_TO_NOTICE = SECONDS_OF_SILENCE + 60.0
"""In which a driver has to end once its cluster's head is gone: Ray itself waits for 60."""


def test_a_worker_is_killed(scene: MakeScene, cluster: Nodes, write: Write, judge: Judge) -> None:
    cluster.have(1)
    job = scene()
    driver = job.start(write(), RAY_ADDRESS=cluster.address)
    job.wait_for_commits(job.moment(), driver)
    worker = job.busy_worker()
    in_flight = set(job.claims())
    worker.kill()
    in_flight |= set(job.claims())
    job.faults += 1
    job.finish(driver)
    assert job.attempts() <= 2
    # Only what the killed worker was at may have to be done again.
    assert len(job.again()) <= 1
    judge(job, "kill -9 of a worker", in_flight=in_flight)


def test_a_driver_is_killed(scene: MakeScene, cluster: Nodes, write: Write, judge: Judge) -> None:
    cluster.have(1)
    job = scene()
    manifest = write()
    driver = job.start(manifest, RAY_ADDRESS=cluster.address)
    job.wait_for_commits(job.moment(), driver)
    workers = [worker for node in cluster.workers for worker in cluster.workers_of(node)]
    assert workers
    driver.process.kill()
    job.faults += 1
    in_flight = job.in_flight_until_gone(workers)
    before = job.committed()
    second = job.start(manifest, RAY_ADDRESS=cluster.address)
    job.finish(second)
    assert before <= job.committed()
    assert before.isdisjoint(job.again())
    # The witness takes who claims a unit that is done for one who finds it done.
    assert second.computed == len(job.planned() - before)
    judge(job, "kill -9 of the driver", in_flight=in_flight)


@pytest.mark.chaos_long
def test_a_raylet_is_killed(scene: MakeScene, cluster: Nodes, write: Write, judge: Judge) -> None:
    cluster.have(2)
    job = scene()
    driver = job.start(write(), RAY_ADDRESS=cluster.address)
    job.wait_for_commits(job.moment(), driver)
    node = cluster.of(job.busy_worker())
    workers = cluster.workers_of(node)
    cluster.kill_raylet(node)
    job.faults += 1
    in_flight = job.in_flight_until_gone(workers)
    job.finish(driver)
    cluster.forget(node)
    # A machine that goes is nobody's fault.
    assert job.attempts() == 1
    judge(job, "kill -9 of a raylet with its workers", in_flight=in_flight)


@pytest.mark.chaos_long
def test_a_node_is_drained_on_notice(
    scene: MakeScene, cluster: Nodes, write: Write, judge: Judge
) -> None:
    cluster.have(2)
    job = scene()
    driver = job.start(write(), RAY_ADDRESS=cluster.address)
    job.wait_for_commits(job.moment() // 3, driver)
    node = cluster.of(job.busy_worker())
    cluster.drain(node)
    job.faults += 1
    job.finish(driver)
    cluster.forget(node)
    assert job.attempts() == 1
    # It finishes what it is at and hands back the rest; of these its two workers may just have
    # begun one each.
    judge(job, "node drained on notice", in_flight=2)


@pytest.mark.chaos_long
@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (signal.SIGKILL, "kill -9 of the cluster's control service"),
        (signal.SIGSTOP, "the cluster's control service hangs"),
    ],
)
def test_the_head_is_gone(
    scene: MakeScene,
    cluster: Nodes,
    other_cluster: Nodes,
    write: Write,
    judge: Judge,
    harm: signal.Signals,
    fault: str,
) -> None:
    other_cluster.have(1)
    cluster.have(1)
    job = scene()
    manifest = write()
    driver = job.start(manifest, RAY_ADDRESS=other_cluster.address)
    job.wait_for_commits(job.moment(), driver)
    other_cluster.harm_head(harm)
    job.faults += 1
    # No worker was harmed: they finish what they have been given.
    assert driver.ended(within=SECONDS_TO_NOTICE) == 1
    in_flight = job.in_flight()
    job.finish(job.start(manifest, RAY_ADDRESS=cluster.address))
    judge(job, fault, in_flight=in_flight)


@pytest.mark.chaos_long
def test_two_drivers_at_once(scene: MakeScene, cluster: Nodes, write: Write, judge: Judge) -> None:
    cluster.have(2)
    job = scene()
    manifest = write(claim_seconds=30.0)
    drivers = [job.start(manifest, RAY_ADDRESS=cluster.address) for _ in range(2)]
    for driver in drivers:
        job.finish(driver)
    job.faults += 1
    twice = sum(driver.computed for driver in drivers) - len(job.planned())
    assert twice >= 0
    # At any moment each of the drivers has two windows at most in work.
    judge(job, "a second driver on the same store", in_flight=4, recomputed=twice)


@pytest.mark.chaos_long
def test_objects_rot_before_a_run_that_needs_them(
    scene: MakeScene, cluster: Nodes, write: Write, judge: Judge
) -> None:
    cluster.have(1)
    job = scene()
    earlier = write(*ARTISTS[:3], fuse=False)
    job.finish(job.start(earlier, RAY_ADDRESS=cluster.address))
    before = job.committed()
    units = {unit.key: unit for unit in plan_here(prepare(earlier)).units()}
    mask = job.random.choice([unit for unit in units.values() if isinstance(unit, MaskUnit)])
    base = units[mask.base]
    window = job.random.choice([key for _, key in base.needs])
    # A new artist needs the base, which needs its windows, and the union needs every mask.
    damaged = {
        flip(job, "mask", mask.key),
        flip(job, "statistics", base.key),
        flip(job, "window", window),
    }
    job.faults += len(damaged)
    second = job.start(write(), RAY_ADDRESS=cluster.address)
    job.finish(second)
    recomputed = second.computed - len(job.planned() - before)
    assert recomputed == len(damaged)
    set_aside = {entry.path.rsplit("/", 1)[-1] for entry in job.store.entries("damaged/commits")}
    assert set_aside == {f"{key}.json" for key in damaged}
    judge(job, "object with a flipped bit", in_flight=damaged, recomputed=recomputed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "chaos", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.chaos_long
def test_the_disk_is_full(
    scene: MakeScene, cluster: Nodes, write: Write, judge: Judge, small_disk: Path
) -> None:
    cluster.have(1)
    job = scene(small_disk / "store")
    manifest = write()
    resize(small_disk, kibibytes=job.random.randrange(300, 2000))
    driver = job.start(manifest, RAY_ADDRESS=cluster.address)
    assert driver.ended() == 1
    assert "No space left on device" in driver.said
    job.faults += 1
    before = job.committed()
    in_flight = job.witness.begun().keys() - before
    resize(small_disk, kibibytes=64_000)
    job.finish(job.start(manifest, RAY_ADDRESS=cluster.address))
    assert before <= job.committed()
    judge(job, "disk full", in_flight=in_flight)


def resize(disk: Path, *, kibibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(disk)], check=True)


@pytest.mark.chaos_long
def test_the_store_turns_read_only(
    scene: MakeScene, cluster: Nodes, write: Write, judge: Judge, small_disk: Path
) -> None:
    cluster.have(1)
    resize(small_disk, kibibytes=64_000)
    job = scene(small_disk / "store")
    manifest = write()
    driver = job.start(manifest, RAY_ADDRESS=cluster.address)
    job.wait_for_commits(job.moment(), driver)
    # Refused at a moment when a file is open for writing.
    job.wait(lambda: remounted(small_disk, "ro"))
    job.faults += 1
    assert driver.ended() == 1
    assert "Read-only file system" in driver.said
    before = job.committed()
    in_flight = job.witness.begun().keys() - before
    assert remounted(small_disk, "rw")
    job.finish(job.start(manifest, RAY_ADDRESS=cluster.address))
    assert before <= job.committed()
    judge(job, "store turned read-only", in_flight=in_flight)


def remounted(disk: Path, mode: str) -> bool:
    return (
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=False).returncode == 0
    )


@pytest.mark.chaos_long
@pytest.mark.parametrize("seed", [0])
def test_the_machine_is_low_on_memory(
    scene: MakeScene, cluster: Nodes, other_cluster: Nodes, write: Write, judge: Judge
) -> None:
    """Every worker is ended by Ray's memory monitor as soon as it looks; then there is memory."""
    other_cluster.have(1, **LOW_ON_MEMORY)
    cluster.have(1)
    job = scene()
    manifest = write()
    driver = job.start(manifest, RAY_ADDRESS=other_cluster.address)
    assert driver.ended() == 1
    assert "the machine ran low on memory" in driver.said
    # The monitor's own message has a list of all processes of the machine.
    assert "raylet" not in driver.said
    rows = [row for run in job.store.runs() for row in job.ledger(run)]
    ended = sum(row["attempts"] - (row["status"] == "done") for row in rows)
    job.faults += ended
    before = job.committed()
    job.finish(job.start(manifest, RAY_ADDRESS=cluster.address))
    assert before <= job.committed()
    judge(job, "workers ended by Ray's memory monitor", in_flight=ended)


LOW_ON_MEMORY = {
    "RAY_memory_usage_threshold": "0.01",
    "RAY_memory_monitor_refresh_ms": "250",
}


@pytest.mark.chaos_long
@pytest.mark.parametrize("seed", [0])
def test_shared_memory_is_full(scene: MakeScene, write: Write, judge: Judge) -> None:
    """That of one driver and its local Ray: in a mount namespace of their own."""
    job = scene()
    fill = "mount -t tmpfs -o size=64k full /dev/shm && head -c 64k /dev/zero > /dev/shm/x"
    apart = ("unshare", "--mount", "sh", "-c", f'{fill}; exec "$@"', "sh")
    driver = job.start(write(), within=apart)
    job.finish(driver)
    assert "instead of /dev/shm because /dev/shm has only" in driver.said
    job.faults += 1
    assert job.attempts() == 1
    judge(job, "/dev/shm full", in_flight=set())


@pytest.mark.chaos_long
@pytest.mark.parametrize("seed", [0])
def test_the_driver_is_started_by_uv(scene: MakeScene, write: Write, judge: Judge) -> None:
    """Ray would start its workers through uv too, in a copied folder."""
    job = scene()
    job.finish(job.start(write(), within=(str(UV), "run", "--no-project")))
    job.faults += 1
    assert job.attempts() == 1
    judge(job, "started by `uv run`", in_flight=set())


@pytest.mark.chaos_long
def test_a_worker_died_whose_clock_was_an_hour_ahead(
    scene: MakeScene, cluster: Nodes, write: Write, judge: Judge
) -> None:
    cluster.have(1)
    job = scene()
    manifest = write()
    unit = job.random.choice(
        [unit for unit in plan_here(prepare(manifest)).units() if isinstance(unit, MaskUnit)]
    )
    since = time.time() + 3600
    dead = Claim(
        kind=unit.kind,
        key=unit.key,
        job="20260101T000000-000000",
        worker="node-7/1",
        since=since,
        expires=since + CLAIM_SECONDS,
    )
    job.store.write_claim(dead.path, dead.to_bytes())
    job.faults += 1
    driver = job.start(manifest, RAY_ADDRESS=cluster.address)
    job.finish(driver)
    assert "job 20260101T000000-000000 on node-7/1 has not renewed its claim" in driver.said
    judge(job, "claim of a dead worker with its clock ahead", in_flight={unit.key})


def flip(job: Scene, kind: str, key: str) -> str:
    """Flip one bit of what a unit left behind; returns its key."""
    refs = job.store.get(kind, key).objects
    path = Path(job.uri) / refs[{"window": "partial"}.get(kind, kind)].path
    data = bytearray(path.read_bytes())
    data[job.random.randrange(len(data))] ^= 1 << job.random.randrange(8)
    path.write_bytes(data)
    return key
