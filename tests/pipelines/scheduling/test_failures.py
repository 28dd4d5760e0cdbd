"""What a dead worker leaves in an error never gets into a record: only what it means does."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from conceptprune.errors import NumericalError
from pipelines.scheduling.failures import MAX_CHARS, meaning

MEMORY_MONITOR = """Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.7, ID: 5f2a) where the task (actor ID: 01, name=DenoiserActor.run, \
pid=4107) was running was 30.10GB / 31.20GB (0.964), which exceeds the memory usage threshold of \
0.95. Ray killed this worker (ID: 77) because it was the most recently scheduled task.
Top 10 memory users:
PID\tMEM(GB)\tCOMMAND
4107\t8.47\tpython serve.py --api-token hunter2
9001\t4.02\tpsql postgres://someone@db
"""


@pytest.mark.parametrize(
    "error", [OutOfMemoryError(MEMORY_MONITOR), RayActorError(error_msg=MEMORY_MONITOR)]
)
def test_a_worker_that_the_memory_monitor_ended_names_no_other_process(error: Exception) -> None:
    told = meaning(error)
    assert "hunter2" not in told
    assert "postgres" not in told
    assert "\n" not in told
    assert "ran low on memory (30.10GB of 31.20GB in use)" in told
    assert "fewer compute.actors per machine" in told


def test_a_worker_that_died_without_a_word_is_one_line_with_what_to_do() -> None:
    text = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: DenoiserActor\n"
        "\tpid: 12\nThe actor is dead because its worker process has died. Worker exit type: "
        "SYSTEM_ERROR Worker exit detail: connection error code 2. End of file."
    )
    for error in (RayActorError(error_msg=text), WorkerCrashedError(), ActorDiedError()):
        told = meaning(error)
        assert told.startswith(f"{type(error).__name__}: its worker process died without a message")
        assert "lack of memory" in told
        assert "class_name" not in told
    assert "(SYSTEM_ERROR)" in meaning(RayActorError(error_msg=text))


def test_a_worker_that_could_not_be_set_up_says_why_and_not_where() -> None:
    text = (
        "The actor died because of an error raised in its creation task, ray::DenoiserActor()\n"
        '  File "/opt/x.py", line 3, in __init__\n    secret()\n'
        "conceptprune.errors.UserError: the model's folder is gone\n"
    )
    told = meaning(RayActorError(error_msg=text, actor_init_failed=True))
    assert told == (
        "RayActorError: a worker could not be set up: "
        "conceptprune.errors.UserError: the model's folder is gone"
    )


def test_a_machine_that_went_away_is_told_as_that() -> None:
    assert meaning(NodeDiedError("node 5f2a, 10.0.0.7 ...")) == (
        "NodeDiedError: its machine went away"
    )


def test_a_units_own_error_stays_as_it_is_up_to_a_length() -> None:
    assert meaning(NumericalError("NaN in layer x")) == "NumericalError: NaN in layer x"
    assert len(meaning(ValueError("x" * 10**6))) < MAX_CHARS + 30
