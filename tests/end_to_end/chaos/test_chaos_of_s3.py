"""Harm done to the S3 store of real jobs while they run; see `test_chaos.py`."""

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.chaos.conftest import Judge, MakeScene, Write
from tests.support.certificates import Certificate
from tests.support.s3_faults import FaultProxy, first, share
from tests.support.s3_server import SeaweedServer, use_server

pytestmark = pytest.mark.timeout(600)

LASTING = 3600.0
"""Seconds of a claim that no test outlasts: the proxy takes its renewal for another beginning."""

WITH_AND_WITHOUT_RAY = pytest.mark.parametrize(
    "actors",
    # Ray has no part in it, and takes longest to start.
    [0, pytest.param(2, marks=pytest.mark.chaos_long)],
)


@WITH_AND_WITHOUT_RAY
def test_the_s3_store_refuses_a_fifth_of_the_requests(
    scene: MakeScene, proxy: FaultProxy, write: Write, judge: Judge, seed: int, actors: int
) -> None:
    job = scene(proxy=proxy)
    proxy.choose = share(20, ["503"], seed)
    job.finish(job.start(write(claim_seconds=LASTING, actors=actors)))
    proxy.choose = lambda request: None
    job.faults += proxy.injected["503"]
    assert job.attempts() == 1
    judge(job, "S3: 503 to 20 % of the requests", in_flight=set())


@pytest.mark.chaos_long
def test_the_s3_store_is_slow(
    scene: MakeScene, proxy: FaultProxy, write: Write, judge: Judge
) -> None:
    job = scene(proxy=proxy)
    driver = job.start(write(claim_seconds=LASTING))
    job.wait_for_commits(job.moment(), driver)
    proxy.delay = 0.5
    job.faults += 1
    job.finish(driver)
    proxy.delay = 0.0
    assert job.attempts() == 1
    judge(job, "S3: half a second for each request", in_flight=set())


@pytest.mark.chaos_long
def test_the_s3_server_is_killed_and_restarted(
    scene: MakeScene, proxy: FaultProxy, server: SeaweedServer, write: Write, judge: Judge
) -> None:
    job = scene(proxy=proxy)
    driver = job.start(write(claim_seconds=LASTING))
    job.wait_for_commits(job.moment(), driver)
    in_flight = set(job.claims())
    server.kill()
    job.faults += 1
    # Started by hand at some later time, not at once.
    with pytest.raises(subprocess.TimeoutExpired):
        driver.ended(within=job.random.uniform(2, 6))
    server.start()
    job.finish(driver)
    judge(job, "S3: server killed and restarted", in_flight=in_flight)


@pytest.mark.chaos_long
@pytest.mark.parametrize("part", ["/objects/partial", "/commits/window", "/claims/window"])
def test_one_put_of_a_whole_job_gets_no_answer(
    scene: MakeScene, proxy: FaultProxy, write: Write, judge: Judge, part: str
) -> None:
    job = scene(proxy=proxy)
    proxy.choose = first(
        1, "silent", lambda request: request.method == "PUT" and part in request.path
    )
    job.finish(job.start(write(claim_seconds=LASTING), CONCEPTPRUNE_STORE_DEADLINE="60"))
    assert proxy.injected == {"silent": 1}
    proxy.choose = lambda request: None
    job.faults += 1
    assert job.attempts() == 1
    judge(job, f"S3: a put to {part} gets no answer", in_flight=set())


@pytest.mark.chaos_long
@WITH_AND_WITHOUT_RAY
def test_the_s3_store_falls_silent(
    scene: MakeScene, proxy: FaultProxy, write: Write, judge: Judge, actors: int
) -> None:
    job = scene(proxy=proxy)
    manifest = write(claim_seconds=LASTING, actors=actors)
    driver = job.start(manifest, CONCEPTPRUNE_STORE_DEADLINE="10")
    job.wait_for_commits(job.moment(), driver)
    in_flight = set(job.claims())
    proxy.choose = lambda request: "silent"
    job.faults += 1
    # Neither for ever nor in silence.
    assert driver.ended() == 1
    assert "no answer within" in driver.said
    proxy.choose = lambda request: None
    in_flight |= set(job.claims())
    # What its workers could not release; nobody waits an hour for them here.
    job.store.remove([entry.path for entry in job.store.claims()])
    job.finish(job.start(manifest))
    judge(job, "S3: silent for good", in_flight=in_flight)


@WITH_AND_WITHOUT_RAY
def test_the_s3_store_is_behind_https_with_an_authority_of_its_own(
    scene: MakeScene,
    server: SeaweedServer,
    write: Write,
    judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actors: int,
) -> None:
    certificate = Certificate.make(tmp_path)
    with FaultProxy(server.port, certificate) as proxy:
        use_server(monkeypatch, proxy.endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.authority))
        # And knows no checksums behind a body, as many a server.
        proxy.choose = lambda request: "411" if "x-amz-trailer" in request.headers else None
        job = scene(proxy=proxy)
        job.finish(job.start(write(claim_seconds=LASTING, actors=actors)))
        job.faults += 1
        judge(job, "S3: https, without checksum trailers", in_flight=set())
