"""The summary of an evaluation on a terminal: whatever is in it, it is text."""

import io

from rich.console import Console

from pipelines.console.evaluation import show_summary
from tests.pipelines.report.many import score


def test_what_a_summary_names_is_shown_as_it_is_and_obeyed_by_no_markup() -> None:
    odd, group = "[/bold]", "[link=x]"
    sink = io.StringIO()
    rows = [score(group=group, scorer=odd, metric=odd, checkpoint=odd, low=0.1, high=None)]
    show_summary(rows, [odd], Console(file=sink))
    assert (sink.getvalue().count(odd), sink.getvalue().count(group)) == (3, 1)
    assert "0.5" in sink.getvalue()
