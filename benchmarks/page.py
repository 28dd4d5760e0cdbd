"""The site of 500 concepts in a browser: how soon its overview shows, and how large it is.

From this machine's disk, in headless Chromium. A bucket far away adds one request's latency and the
transfer of one file; images load later, as they are scrolled into view.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.results import Measurement
from pipelines.report import write_report
from tests.pipelines.report.many import store_of_many
from tests.support.browser import Browser, chromium

CONCEPTS = 500
LOADS = 5

PAINTED = """new Promise(done => {
  const tell = () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime;
  if (tell()) done(tell());
  else new PerformanceObserver((_, self) => { if (tell()) { self.disconnect(); done(tell()); } })
    .observe({type: 'paint', buffered: true});
})"""
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
SORTED = """(() => {
  const button = document.querySelector('.concepts thead .number button');
  const start = performance.now();
  button.click();
  document.body.getBoundingClientRect();
  return performance.now() - start;
})()"""


def run() -> list[Measurement]:
    """500 concepts."""
    return of(CONCEPTS, at_most=1000)


def run_minimal() -> list[Measurement]:
    """A few concepts, to see that it runs."""
    return of(3, at_most=None)


def of(concepts: int, *, at_most: float | None) -> list[Measurement]:
    """Write the site of that many concepts, and open its overview a few times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, _ = store_of_many(folder, concepts)
        started = time.perf_counter()
        write_report(store.uri, out=folder / "site", run=None)
        writing = time.perf_counter() - started
        overview = folder / "site" / "index.html"
        # As root, Chromium still writes into the profile after it was told to end.
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
            chromium(Path(profile)) as browser,
        ):
            loads = [_load(browser, overview) for _ in range(LOADS)]
        size = overview.stat().st_size
    painted, loaded, sorting = (median(times) for times in zip(*loads, strict=True))
    what = f"{concepts} concepts"
    return [
        Measurement(
            what=f"{what}: first contentful paint",
            value=painted,
            unit="ms",
            at_most=at_most,
            note=f"median of {LOADS} loads",
        ),
        Measurement(what=f"{what}: all of the overview loaded", value=loaded, unit="ms"),
        Measurement(what=f"{what}: sorting by a column", value=sorting, unit="ms"),
        Measurement(what=f"{what}: the overview's size", value=size / 1000, unit="kB"),
        Measurement(what=f"{what}: writing the site", value=writing, unit="s"),
    ]


def _load(browser: Browser, page: Path) -> tuple[float, float, float]:
    """(first contentful paint, load event, sorting) in milliseconds."""
    browser.open(page, width=1200)
    answer = browser.call(
        "Runtime.evaluate", expression=PAINTED, awaitPromise=True, returnByValue=True
    )
    painted = float(answer["result"]["value"])
    return painted, float(browser.value(LOADED)), float(browser.value(SORTED))
