"""The report of a run, made only from the store: one page, or a site of many."""

from pathlib import Path

from conceptprune.errors import UserError

from .data import read_report
from .render import render
from .site import write_site


def write_report(store_uri: str, *, out: Path, run: str | None) -> tuple[str, ...]:
    """Write the report of `run`, or of the newest run; does not need the model.

    Args:
        store_uri: the store.
        out: one page that stands alone, if its name ends in .html; else the folder of a site.
        run: a run's id.

    Returns:
        What it leaves out, because another version recorded it in an unknown form.

    Raises:
        UserError: there is no such store or run, or nothing can be written there.
        StoreError: an object of the run is missing or damaged.
    """
    if out.suffix != ".html":
        return write_site(store_uri, out=out, run=run)
    report = read_report(store_uri, run)
    page = render(report)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error
    return report.not_shown


__all__ = ["write_report"]
