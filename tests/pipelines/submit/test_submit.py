"""`submit` builds one safe call of the Jobs API, and its exit code is the job's verdict."""

import shlex
import subprocess
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from conceptprune.errors import UserError
from pipelines.submit import submit as module
from pipelines.submit.submission import Submission
from pipelines.submit.submit import submit

ROOT = Path(__file__).parents[3]
STORE = "s3://bucket/store"
ADDRESS = "http://head:8265"
CONTENT = {
    "version": 1,
    "model": {"builtin": "studio"},
    "concepts": [{"name": "Ada Bell", "kind": "style"}],
}


def job(submission_id: str | None, status: JobStatus, code: int | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=submission_id,
        status=status,
        entrypoint="python",
        driver_exit_code=code,
        message="the runtime environment could not be set up" if code is None else None,
    )


class Cluster:
    """Stands for the Jobs API: its jobs, what was submitted, and how that ends."""

    def __init__(self) -> None:
        self.jobs: list[JobDetails] = []
        self.calls: list[dict[str, Any]] = []
        self.end: JobDetails = job("any", JobStatus.SUCCEEDED, 0)
        self.refusal: Exception | None = None
        self.log: list[str | BaseException] = ["0/1 concepts\n", "1/1 concepts\n"]
        self.failures = 0
        self.not_ready = 0
        self.packs = False
        self.staged: set[str] = set()
        self.packed: set[str] = set()

    def __call__(self, address: str) -> "Cluster":
        if isinstance(self.refusal, AuthenticationError | OSError):
            raise self.refusal
        return self

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, **call: Any) -> str:
        if self.not_ready:
            self.not_ready -= 1
            raise RuntimeError("No available agent to submit job, please try again later.")
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(call)
        folder = Path(call["runtime_env"]["working_dir"])
        self.staged = {
            f"{file.relative_to(folder)}" for file in folder.rglob("*") if file.is_file()
        }
        if self.packs:
            self.packed = package_of(f"{folder}")
        return call["submission_id"]

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        for lines in self.log:
            if isinstance(lines, BaseException):
                raise lines
            yield lines

    def get_job_info(self, _job: str) -> JobDetails:
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError("no answer")
        return self.end


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "JobSubmissionClient", cluster)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0)
    return cluster


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write(tmp_path / "manifests" / "m.yaml")


def write(path: Path, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**CONTENT, **changes}), encoding="utf-8")
    return path


def run_id(manifest: Path, store: str = STORE) -> str:
    return Submission.of(manifest, store, manifest.parent).run


def submitted(manifest: Path, store: str = STORE) -> int:
    return submit(Submission.of(manifest, store, manifest.parents[1]), address=ADDRESS)


def test_the_documented_entrypoint_is_submitted_under_the_runs_id(
    cluster: Cluster, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submitted(manifest) == 0
    (call,) = cluster.calls
    assert call["entrypoint"] == f"python -m pipelines.erase manifests/m.yaml --store {STORE}"
    assert call["submission_id"] == run_id(manifest)
    assert set(call) == {"entrypoint", "submission_id", "runtime_env"}
    assert set(call["runtime_env"]) == {"working_dir"}
    assert {"manifests/m.yaml", "pipelines/erase.py"} <= cluster.staged
    # What was staged is gone again.
    assert not Path(call["runtime_env"]["working_dir"]).exists()
    assert "1/1 concepts" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a b.yaml", "$(touch x).yaml", "it's;ls.yaml", "*&|.yaml"])
def test_a_hostile_name_reaches_the_job_as_one_word(tmp_path: Path, name: str) -> None:
    store = f"{tmp_path}/st ore;$HOME"
    entrypoint = Submission.of(write(tmp_path / name), store, tmp_path).entrypoint
    assert shlex.split(entrypoint)[3:] == [name, "--store", store]
    echo = entrypoint.replace("python -m pipelines.erase", r"printf '%s\n'", 1)
    shown = subprocess.run(["sh", "-c", echo], text=True, capture_output=True, check=True)
    assert shown.stdout.splitlines() == [name, "--store", store]


def test_the_id_is_of_what_is_asked_for_not_of_how_it_is_computed(manifest: Path) -> None:
    first = run_id(manifest)
    assert run_id(write(manifest, compute={"actors": 64})) == first
    assert run_id(manifest, "s3://bucket/other") != first
    assert run_id(write(manifest, pruning={"sparsity": 0.5})) != first


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_a_live_run_is_not_submitted_again(
    cluster: Cluster, manifest: Path, status: JobStatus
) -> None:
    run = run_id(manifest)
    cluster.jobs = [job(run, JobStatus.FAILED, 1), job(f"{run}-2", status)]
    with pytest.raises(UserError, match=rf"{status}.*ray job logs .*--follow {run}-2"):
        submitted(manifest)
    assert cluster.calls == []


def test_a_run_that_has_ended_gets_the_next_number(cluster: Cluster, manifest: Path) -> None:
    run = run_id(manifest)
    others = [job(None, JobStatus.RUNNING), job(f"{run}0", JobStatus.RUNNING)]
    for number in range(1, 12):
        assert submitted(manifest) == 0
        expected = run if number == 1 else f"{run}-{number}"
        assert cluster.calls[-1]["submission_id"] == expected
        cluster.jobs = [job(expected, JobStatus.FAILED, 1), *cluster.jobs, *others]


def test_the_logs_format_is_handed_on_and_is_no_part_of_the_id(manifest: Path) -> None:
    plain = Submission.of(manifest, STORE, manifest.parent)
    asked = Submission.of(manifest, STORE, manifest.parent, "json")
    assert asked.entrypoint == f"{plain.entrypoint} --log-format json"
    assert asked.run == plain.run
    with pytest.raises(UserError, match="--log-format xml: json or plain"):
        Submission.of(manifest, STORE, manifest.parent, "xml")


def test_of_two_submitters_at_the_same_moment_one_is_told(cluster: Cluster, manifest: Path) -> None:
    cluster.refusal = RuntimeError("Job with submission_id already exists")
    with pytest.raises(UserError, match=r"not accepted: .*already exists"):
        submitted(manifest)


def test_a_head_that_has_just_started_is_given_time(
    cluster: Cluster,
    manifest: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.not_ready = 3
    assert submitted(manifest) == 0
    assert len(cluster.calls) == 1
    cluster.not_ready = 10**9
    monkeypatch.setattr(module, "SECONDS_FOR_AN_AGENT", 0.1)
    assert submitted(manifest) == 1
    said = capsys.readouterr().err
    assert "No available agent" in said
    assert "--dashboard-agent-listen-port" in said


@pytest.mark.parametrize(
    ("status", "code", "verdict", "said"),
    [
        (JobStatus.SUCCEEDED, 0, 0, ""),
        (JobStatus.FAILED, 1, 1, ""),
        (JobStatus.FAILED, 2, 2, ""),
        (JobStatus.FAILED, -9, 1, "ended with exit code -9"),
        (JobStatus.FAILED, None, 1, "did not run: the runtime environment could not be set up"),
        (JobStatus.STOPPED, None, 1, "was stopped"),
    ],
)
def test_the_exit_code_is_the_jobs_verdict(
    cluster: Cluster,
    manifest: Path,
    capsys: pytest.CaptureFixture[str],
    status: JobStatus,
    code: int | None,
    verdict: int,
    said: str,
) -> None:
    cluster.end = job("any", status, code)
    assert submitted(manifest) == verdict
    errors = capsys.readouterr().err
    assert said in errors if said else errors == ""


def test_a_broken_log_is_not_taken_for_the_verdict(cluster: Cluster, manifest: Path) -> None:
    cluster.log = ["0/1 concepts\n", RuntimeError("closed unexpectedly")]
    cluster.failures = 3
    assert submitted(manifest) == 0


def test_a_cluster_that_is_lost_ends_the_wait(
    cluster: Cluster, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.failures = module.LOOKS_BEFORE_GIVING_UP
    assert submitted(manifest) == 1
    assert "out of sight" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_follow_and_stop(
    cluster: Cluster, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.log = ["0/1 concepts\n", KeyboardInterrupt()]
    assert submitted(manifest) == 130
    errors = capsys.readouterr().err
    run = run_id(manifest)
    assert f"ray job logs --address {ADDRESS} --follow {run}" in errors
    assert f"ray job stop --address {ADDRESS} {run}" in errors


def test_bad_input_is_found_before_the_cluster_is_asked(cluster: Cluster, tmp_path: Path) -> None:
    good = write(tmp_path / "in" / "m.yaml")
    inside = good.parent
    bad = write(inside / "bad.yaml", pruning={"sparsity": 9})
    outside = write(tmp_path / "m.yaml")
    left_behind = write(inside / "venv" / "m.yaml")
    cluster.refusal = ConnectionError("was asked")
    cases = [
        (bad, STORE, inside, r"pruning\.sparsity"),
        (tmp_path / "none.yaml", STORE, inside, "cannot be read"),
        (outside, STORE, inside, "not in --working-dir"),
        (left_behind, STORE, inside, "not uploaded"),
        (good, STORE, inside / "nowhere", "not a folder"),
        (good, "runs/demo", inside, "relative folder would be lost"),
    ]
    for path, store, working_dir, message in cases:
        with pytest.raises(UserError, match=message):
            submit(Submission.of(path, store, working_dir), address=ADDRESS)


def test_an_address_must_be_a_url_and_wins_over_the_environment(
    cluster: Cluster, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    for address in ("auto", "head:6379", "ray://head:10001", "http://"):
        with pytest.raises(UserError, match="not the URL of a Jobs API"):
            submit(Submission.of(manifest, STORE, manifest.parent), address=address)
    assert submitted(manifest) == 0
    assert "RAY_ADDRESS" not in module.os.environ


def test_a_cluster_that_does_not_answer_is_a_failure_and_a_wrong_token_bad_input(
    cluster: Cluster, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.refusal = ConnectionError("connection refused")
    assert submitted(manifest) == 1
    assert "nothing was submitted" in capsys.readouterr().err
    cluster.refusal = AuthenticationError("Invalid authentication token")
    with pytest.raises(UserError, match="Invalid authentication token"):
        submitted(manifest)


def test_no_credential_is_part_of_the_call_or_shown(
    cluster: Cluster,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = "planted-secret"
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, secret)
    assert submitted(manifest) == 0
    assert secret not in repr(cluster.calls)
    for store in (
        f"s3://key:{secret}@bucket/x",
        f"s3://key:a/{secret}@bucket/x",
        f"s3://bucket/x?secret={secret}",
    ):
        with pytest.raises(UserError, match="no credentials") as refused:
            submitted(manifest, store)
        assert secret not in str(refused.value)
    with pytest.raises(UserError, match="no credentials") as refused:
        submit(Submission.of(manifest, STORE, manifest.parent), address=f"http://u:{secret}@head")
    assert secret not in str(refused.value) + "".join(capsys.readouterr())


def test_ray_packs_all_that_was_staged(cluster: Cluster, tmp_path: Path) -> None:
    cluster.packs = True
    submission = Submission.of(ROOT / "manifests" / "artists-500.yaml", STORE, ROOT)
    assert submit(submission, address=ADDRESS) == 0
    assert cluster.packed == cluster.staged == set(submission.files)
    assert sum(path.stat().st_size for path in submission.files.values()) < 20e6


def package_of(working_dir: str) -> set[str]:
    """The files that Ray's client would upload (it has no public function for this)."""
    with TemporaryDirectory() as folder:
        target = Path(folder, "package.zip")
        create_package(
            working_dir,
            target,
            include_gitignore=True,
            excludes=get_runtime_env_default_excludes(),
        )
        names = zipfile.ZipFile(target).namelist()
    return {name for name in names if not name.endswith("/")}
