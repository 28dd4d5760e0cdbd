"""The attack job: how often an erased concept is seen again."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from conceptprune.attacks.plan import build_plan, judgement
from conceptprune.attacks.table import ATTACKS, check_names
from conceptprune.attacks.token_spaces import SPACES, TITLES
from conceptprune.errors import UserError
from conceptprune.models.families import family_named
from conceptprune.store import Store

from ..console import exits
from ..console.logs import identified, job_console, log_format
from ..scheduling.metrics import StoreMetrics
from .evaluate import PreparedEvaluation, prepare, run_on_suite, tell_summary, tell_unpinned


def attack(
    suite: Path,
    store: str,
    of: Sequence[str],
    names: Sequence[str],
    console: Console,
    asked_format: str | None = None,
) -> int:
    """Run the attacks and print how often they succeed.

    Returns:
        0 if every attempt was made, 1 if some unit failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(suite, of, store)
    check_attacks(names, prepared)
    tell_unpinned(console, prepared.suite)
    judged = judgement(prepared.suite, prepared.facts)
    opened = Store(store, StoreMetrics())
    opened.check()
    checkpoints = prepared.placed(opened)
    plan = build_plan(prepared.suite, prepared.base, checkpoints, names, judged)
    with identified(run=plan.run):
        started = time.time()
        key = plan.summary.key
        outcome = run_on_suite(prepared, plan, key, checkpoints, opened, console, form, "attack")
        labels = [checkpoint.label for checkpoint in checkpoints]
        tell_summary(console, opened, f"attacks {plan.run}", plan.summary, labels, outcome, started)
    return exits.of_job(outcome.failed)


def check_attacks(names: Sequence[str], prepared: PreparedEvaluation) -> None:
    """Check that every attack is known and can run on every checkpoint's model.

    Raises:
        UserError: an unknown attack, or one that does not support this family's text encoders.
    """
    check_names(names)
    models = [prepared.base.model, *(each.model for each in prepared.checkpoints if each.model)]
    for model in models:
        family = family_named(model.pipeline)
        closed = [name for name in names if ATTACKS[name].tokens]
        if closed and family not in SPACES:
            raise UserError(
                f"--attack {closed[0]}: searches the tokens of {' and of '.join(TITLES)}; "
                f"{model.source.label} is a {model.pipeline}. For it there are "
                f"{', '.join(name for name in ATTACKS if not ATTACKS[name].tokens)}"
            )
