"""What a job exports to Prometheus through Ray: units, evaluations, actors, and store latency.

Tags are kinds, statuses and operations: few, and never the name of a concept. Ray puts `ray_`
before the names, and `_total` after those of counters.
"""

import ray
from ray.util.metrics import Counter, Gauge, Histogram

STORE_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Buckets of the store's histogram, from a local file to an S3 request with many retries."""


class StoreMetrics:
    """Measures the time of this process's store operations; passed to `Store` as its observer."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "conceptprune_store_seconds",
            description="Time of a store operation, tries and waits between them included",
            boundaries=list(STORE_SECONDS),
            tag_keys=("operation",),
        )

    def __call__(self, operation: str, seconds: float) -> None:
        """Record one operation."""
        # Before connecting to the cluster, metrics cannot be exported.
        if ray.is_initialized():
            self._seconds.observe(seconds, {"operation": operation})


class JobMetrics:
    """The driver's metrics of its job."""

    def __init__(self) -> None:
        self._units = Counter(
            "conceptprune_units",
            description="Units that have a result",
            tag_keys=("kind", "status"),
        )
        self._retries = Counter(
            "conceptprune_retries",
            description="Attempts of units after the first",
            tag_keys=("kind",),
        )
        self._interruptions = Counter(
            "conceptprune_interruptions",
            description="Units that went back because their node was taken away",
        )
        self._interrupted = 0
        self._evaluations = Counter(
            "conceptprune_evaluations", description="Denoiser evaluations of finished units"
        )
        self._units_left = Gauge("conceptprune_units_left", description="Units without a result")
        self._actors = Gauge("conceptprune_actors", description="Actors that have started")

    def unit(self, *, kind: str, status: str, attempts: int, evaluations: int) -> None:
        """Record a unit's result; `evaluations` count only if it is done."""
        self._units.inc(1, {"kind": kind, "status": status})
        if attempts > 1:
            self._retries.inc(attempts - 1, {"kind": kind})
        if status == "done" and evaluations:
            self._evaluations.inc(evaluations)

    def interrupted(self, total: int) -> None:
        """Record how many units have been interrupted so far."""
        if total > self._interrupted:
            self._interruptions.inc(total - self._interrupted)
            self._interrupted = total

    def now(self, *, units_left: int, actors: int) -> None:
        """Record how many units are left, and how many actors there are."""
        self._units_left.set(units_left)
        self._actors.set(actors)
