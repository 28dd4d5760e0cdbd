"""`conceptprune submit`: a command on a cluster, through Ray's Jobs API.

Neither credentials nor the token are part of the job: nodes have the former from their environment
or role, and Ray's client reads the latter from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
"""

import asyncio
import os
import re
import shlex
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from conceptprune.errors import UserError

from ..console import exits
from ..console.logs import one_line
from ..console.names import some
from ..console.terminal import echo
from .submission import Submission, refuse_credentials
from .upload import stage

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables in which Ray looks for the Jobs API, in its order."""

SECONDS_BETWEEN_LOOKS = 2.0
LOOKS_BEFORE_GIVING_UP = 30
"""Consecutive failed attempts to reach a head that was reachable before: about a minute."""

TRY_AGAIN = "try again later"
"""Ray's message while a new head has no agent to start jobs."""

SECONDS_FOR_AN_AGENT = 60.0
"""How long to retry then; each refusal takes ten seconds."""


def submit(submission: Submission, *, address: str) -> int:
    """Submit the job, show its log, and wait for its verdict.

    Returns:
        The job's own exit code: 0 all is done, 1 some of it failed (or the job did not run to its
        end), 2 bad input; 130 after Ctrl-C, which leaves the job running.

    Raises:
        UserError: nothing was submitted, and the message says why.
    """
    try:
        client = _connect(address)
        job = _start(client, submission, address)
    except OSError as error:
        echo(f"error: nothing was submitted to {address}: {error}", err=True)
        return exits.FAILED
    try:
        echo(f"submitted {job}")
        if submission.left_out:
            echo(one_line(f"not sent, named as secrets are: {some(submission.left_out)}"), err=True)
        details = _wait(client, job)
    except KeyboardInterrupt:
        echo(f"\ndetached: {job} goes on. {_how_to_go_on(job, address)}", err=True)
        return exits.DETACHED
    if details is None:
        echo(f"error: {job} is out of sight. {_how_to_go_on(job, address)}", err=True)
        return exits.FAILED
    return _verdict(job, details)


def _connect(address: str) -> JobSubmissionClient:
    """A client of the Jobs API at `address`, with the token of the environment."""
    refuse_credentials("--address", address)
    if not re.match(r"https?://[^/]", address):
        raise UserError(f"--address {address}: not the URL of a Jobs API, http://HOST:8265")
    for name in ADDRESS_VARIABLES:
        # Ray would prefer them to the given address.
        os.environ.pop(name, None)
    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, RuntimeError) as error:
        raise UserError(f"{address} does not take this client's jobs: {error}") from error


def _start(client: JobSubmissionClient, submission: Submission, address: str) -> str:
    """Submit the run's next job, unless one is live; returns its id."""
    with TemporaryDirectory(prefix="conceptprune-submit-") as folder:
        stage(submission.files, Path(folder))
        return _start_in(Path(folder), client, submission, address)


def _start_in(
    working_dir: Path, client: JobSubmissionClient, submission: Submission, address: str
) -> str:
    give_up = time.monotonic() + SECONDS_FOR_AN_AGENT
    while True:
        jobs = client.list_jobs()
        live = submission.live(jobs)
        if live is not None:
            raise UserError(
                f"this run is {live.status} already, nothing was submitted. "
                f"{_how_to_go_on(live.submission_id, address)}"
            )
        job = submission.next_id(jobs)
        try:
            client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(working_dir)},
            )
        except RuntimeError as error:
            if TRY_AGAIN not in str(error):
                # Ids are unique: of two simultaneous submitters, one ends up here.
                raise UserError(f"{job} was not accepted: {error}") from error
            if time.monotonic() > give_up:
                raise ConnectionError(
                    f"{error} The head has no agent to start jobs: its dashboard_agent.log says "
                    "why, most often because another Ray has the agent's port (give "
                    "--dashboard-agent-listen-port to `ray start`)"
                ) from error
            time.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            return job


def _wait(client: JobSubmissionClient, job: str) -> JobDetails | None:
    """Print a job's log while it runs; returns its details at the end, or None if it is lost."""
    try:
        asyncio.run(_print_log(client, job))
    except Exception as error:
        # An error in the log says nothing about the job.
        echo(f"the log broke off ({error}), the job may go on; waiting for it", err=True)
    failures = 0
    while failures < LOOKS_BEFORE_GIVING_UP:
        try:
            details = client.get_job_info(job)
        except (OSError, RuntimeError):
            failures += 1
        else:
            failures = 0
            if details.status.is_terminal():
                return details
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return None


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        echo(lines, end="")


def _verdict(job: str, details: JobDetails) -> int:
    """The exit code of the job; prints what its log does not say."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    if details.status == JobStatus.STOPPED:
        echo(f"error: {job} was stopped", err=True)
    elif code is None:
        echo(f"error: {job} did not run: {details.message}", err=True)
    elif code not in (exits.FAILED, exits.BAD_INPUT):
        echo(f"error: {job} ended with exit code {code}", err=True)
    return exits.BAD_INPUT if code == exits.BAD_INPUT else exits.FAILED


def _how_to_go_on(job: str, address: str) -> str:
    follow = shlex.join(["ray", "job", "logs", "--address", address, "--follow", job])
    stop = shlex.join(["ray", "job", "stop", "--address", address, job])
    return f"Follow it with `{follow}`, stop it with `{stop}`"
