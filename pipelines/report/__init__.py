"""The report of a run: one self-contained HTML page, made from the store alone."""

from pathlib import Path

from conceptprune.errors import UserError
from pipelines.report.data import read_report
from pipelines.report.render import render


def write_report(store_uri: str, *, out: Path, run: str | None) -> None:
    """Write the page of `run`, or of the newest run, to `out`; the model is not needed.

    Raises:
        UserError: there is no such store or run, or the page cannot be written there.
        StoreError: an object of the run is missing or damaged.
    """
    page = render(read_report(store_uri, run))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error


__all__ = ["write_report"]
