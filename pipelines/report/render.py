"""The page: report data in one template, all text escaped, nothing loaded from elsewhere."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache, partial
from math import log10

from jinja2 import Environment, PackageLoader, StrictUndefined

from .charts import heat_chart
from .values import ConceptReport, ReportData
from .verdict import verdict

NBSP = "\N{NO-BREAK SPACE}"


def render(report: ReportData) -> str:
    """The report as one HTML document."""
    template = environment().get_template("report.html.j2")
    top = heat_top(report.concepts)
    return template.render(report=report, chart=partial(heat_chart, top=top), heat_top=top)


def heat_top(concepts: Iterable[ConceptReport]) -> float:
    """The share with the darkest colour: the same for all maps, so that they can be compared."""
    return max(
        (row.pruned for concept in concepts if concept.where for row in concept.where.rows),
        default=0.0,
    )


@cache
def environment() -> Environment:
    """The templates, compiled once, and their filters; all inserted text is escaped."""
    templates = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters.update(
        percent=percent,
        duration=duration,
        size=size,
        when=when,
        grouped=grouped,
        number=number,
        recorded=recorded,
        recorded_percent=recorded_percent,
        verdict=verdict,
    )
    return templates


def percent(share: float, digits: int = 1) -> str:
    """0.0278 as "2.8 %"."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def number(value: float, is_share: bool) -> str:
    """A measured number: a share in per cent, anything else to three digits."""
    return f"{100 * value:.1f}" if is_share else f"{value:.3g}"


def recorded(value: object) -> str:
    """A value of a recorded manifest, which another version may have written."""
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def recorded_percent(value: object, digits: int = 1) -> str:
    """A recorded share, formatted by `percent`; anything else unchanged."""
    return percent(value, digits) if isinstance(value, int | float) else recorded(value)


def grouped(number: float) -> str:
    """1234567 as "1 234 567"; a fraction is rounded."""
    return f"{round(number):,}".replace(",", NBSP)


def duration(seconds: float) -> str:
    """As "9.3 s", "4 min 05 s" or "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def size(num_bytes: float) -> str:
    """As "812 B", "4.1 kB", "2.3 MB" or "1.7 GB"."""
    num_bytes = round(num_bytes)
    if num_bytes < 1000:
        return f"{num_bytes}{NBSP}B"
    steps = min(3, int(log10(num_bytes)) // 3)
    return f"{num_bytes / 1000**steps:.1f}{NBSP}{('kB', 'MB', 'GB')[steps - 1]}"


def when(moment: datetime) -> str:
    """As "2026-11-24 03:05 UTC"."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
