"""The page: report data through one template, every text escaped, nothing loaded from anywhere."""

from datetime import datetime
from math import log10

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.report.charts import HeatChart, heat_chart
from pipelines.report.data import ReportData
from pipelines.report.where import HeatMap

NBSP = "\N{NO-BREAK SPACE}"


def render(report: ReportData) -> str:
    """The report as one HTML document."""
    # Shared by all maps, so that colours of two concepts can be compared.
    top = max(
        (row.pruned for concept in report.concepts if concept.where for row in concept.where.rows),
        default=0.0,
    )

    def chart(where: HeatMap) -> HeatChart:
        return heat_chart(where, top=top)

    environment = Environment(
        loader=PackageLoader("pipelines.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=percent, duration=duration, size=size, when=when, grouped=grouped
    )
    template = environment.get_template("report.html.j2")
    return template.render(report=report, chart=chart, heat_top=top)


def percent(share: float, digits: int = 1) -> str:
    """0.0278 as "2.8 %"."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def grouped(number: int) -> str:
    """1234567 as "1 234 567"."""
    return f"{number:,}".replace(",", NBSP)


def duration(seconds: float) -> str:
    """As "9.3 s", "4 min 05 s" or "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def size(num_bytes: int) -> str:
    """As "812 B", "4.1 kB", "2.3 MB" or "1.7 GB"."""
    if num_bytes < 1000:
        return f"{num_bytes}{NBSP}B"
    steps = min(3, int(log10(num_bytes)) // 3)
    return f"{num_bytes / 1000**steps:.1f}{NBSP}{('kB', 'MB', 'GB')[steps - 1]}"


def when(moment: datetime) -> str:
    """As "2026-11-24 03:05 UTC"."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
