"""`python -m pipelines.erase MANIFEST --store URI`: the erase job, as `ray job submit` runs it."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conceptprune.plan import run_id
from pipelines.job import JobResult, run_job
from pipelines.logs import identified, job_console, log_format
from pipelines.preparation import prepare
from pipelines.run import tell_outcome


def erase(
    manifest: Path,
    store: str,
    console: Console,
    asked_format: str | None = None,
    *,
    verify: bool = False,
) -> int:
    """Run the job and print its table, as lines of the log where that is asked to be JSON.

    With `verify`, results that are in the store already are read in full and checked.

    Returns:
        0 when every concept is done, 1 when some failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(manifest)
    with identified(run=run_id(prepared.manifest, prepared.model)):
        result = run_job(prepared, store, console, form, verify=verify)
        _print_result(result, store, prepared.denoiser_weights, console)
        return 1 if result.outcome.failed else 0


def _print_result(result: JobResult, store: str, denoiser_weights: int, console: Console) -> None:
    by_key = {row["key"]: row for row in result.outcome.rows}
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("concept", "entries", "% of site", "% of model", "seconds", "artifact"):
        words = name in ("concept", "artifact")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    masks = [(plan.concept.name, plan.mask.key) for plan in result.plan.concepts]
    if result.plan.fused:
        masks.append(("(all, fused)", result.plan.fused.key))
    seconds = _seconds_by_concept(result)
    for name, key in masks:
        row = by_key[key]
        if row["entries"] is None:
            table.add_row(Text(name), "-", "-", "-", "-", Text(f"{row['status']}"))
            continue
        table.add_row(
            Text(name),
            f"{row['entries']:,}",
            f"{100 * row['entries'] / row['site_weights']:.2f}",
            f"{100 * row['entries'] / denoiser_weights:.3f}",
            f"{seconds.get(name, row['seconds']):.1f}",
            Text(f"mask {_mask_digest(row['objects'])}"),
        )
    console.print(table)
    tell_outcome(console, f"run {result.plan.run}", result.outcome, result.seconds, store)


def _mask_digest(paths: Iterable[str]) -> str:
    (path,) = (path for path in paths if path.startswith("objects/mask/"))
    return path.rsplit("/", 1)[-1][:12]


def _seconds_by_concept(result: JobResult) -> dict[str, float]:
    """Worker seconds that went into each concept; a shared unit counts in equal parts."""
    seconds: dict[str, float] = {}
    for row in result.outcome.rows:
        for name in row["concepts"]:
            share = (row["seconds"] or 0.0) / len(row["concepts"])
            seconds[name] = seconds.get(name, 0.0) + share
    return seconds


if __name__ == "__main__":
    import sys

    from pipelines.cli import main

    main(["erase", *sys.argv[1:]])
