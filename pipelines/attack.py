"""`python -m pipelines.attack SUITE --store URI --of ... --attack ...`: attack checkpoints."""

import difflib
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from conceptprune.attacks.plan import build_plan, judgement
from conceptprune.attacks.table import ATTACKS
from conceptprune.errors import UserError
from conceptprune.families.stable_diffusion import StableDiffusion
from conceptprune.families.table import family_named
from conceptprune.store import Store
from pipelines.evaluate import PreparedEvaluation, prepare, run_on_suite, tell_summary
from pipelines.logs import identified, job_console, log_format
from pipelines.metrics import StoreMetrics


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
        0 when every attempt is there, 1 when some unit failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(suite, of, store)
    check_attacks(names, prepared)
    judged = judgement(prepared.suite, prepared.facts)
    opened = Store(store, StoreMetrics())
    opened.check()
    checkpoints = prepared.placed(opened)
    plan = build_plan(prepared.suite, prepared.base, checkpoints, names, judged)
    with identified(run=plan.run):
        started = time.time()
        key = plan.summary.key
        outcome = run_on_suite(prepared, plan, key, checkpoints, opened, console, form)
        labels = [checkpoint.label for checkpoint in checkpoints]
        tell_summary(console, opened, f"attacks {plan.run}", plan.summary, labels, outcome, started)
    return 1 if outcome.failed else 0


def check_attacks(names: Sequence[str], prepared: PreparedEvaluation) -> None:
    """Make sure that every attack is known and can be run on every checkpoint's model.

    Raises:
        UserError: an unknown attack, or one that this family's text encoders are not open to.
    """
    check_names(names)
    models = [prepared.base.model, *(each.model for each in prepared.checkpoints if each.model)]
    for model in models:
        family = family_named(model.pipeline)
        closed = [name for name in names if ATTACKS[name].tokens]
        if closed and family is not StableDiffusion:
            raise UserError(
                f"--attack {closed[0]}: searches the tokens of Stable Diffusion 1.x and 2.x; "
                f"{model.source.label} is a {model.pipeline}. For it there are "
                f"{', '.join(name for name in ATTACKS if not ATTACKS[name].tokens)}"
            )


def check_names(names: Sequence[str]) -> None:
    """Make sure that there are attacks, and that every one is known.

    Raises:
        UserError: there is none, or an unknown one.
    """
    if not names:
        raise UserError(f"--attack: name at least one of {', '.join(ATTACKS)}")
    for name in names:
        if name not in ATTACKS:
            close = difflib.get_close_matches(name, ATTACKS, n=1)
            nearest = f"; nearest: {close[0]}" if close else ""
            raise UserError(f"--attack {name}: allowed are {', '.join(ATTACKS)}{nearest}")


if __name__ == "__main__":
    import sys

    from pipelines.cli import main

    main(["attack", *sys.argv[1:]])
