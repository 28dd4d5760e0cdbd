"""How long a plan takes and what it costs, given a worker's speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from conceptprune.errors import UserError
from conceptprune.manifest import Compute
from conceptprune.units.unit import Unit


def check_prices(rate: float | None, gpu_hour: float | None, *, calibrate: bool) -> None:
    """Check that a rate and a price can be used for an estimate.

    Raises:
        UserError: they cannot.
    """
    if rate is not None and not (isfinite(rate) and rate > 0):
        raise UserError(f"--rate {rate}: a number above 0, in evaluations a second of one worker")
    if rate is not None and calibrate:
        raise UserError("--rate: it says what --calibrate would measure; give one of them")
    if gpu_hour is not None and not (isfinite(gpu_hour) and gpu_hour >= 0):
        raise UserError(f"--gpu-hour {gpu_hour}: a number of at least 0, the price of one GPU-hour")
    if gpu_hour is not None and rate is None and not calibrate:
        raise UserError("--gpu-hour: hours follow from a speed; add --calibrate or --rate NUMBER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate of denoising only; loading, selection and writing come on top."""

    evaluations: int
    rate: float
    """Denoiser evaluations per second of one worker."""
    workers: int
    gpus: float
    """GPUs of all workers together."""
    gpu_hour: float | None
    """The price of one GPU for an hour."""

    @classmethod
    def of(
        cls, units: Sequence[Unit], compute: Compute, rate: float, gpu_hour: float | None
    ) -> "Estimate":
        """The estimate for these units, on the actors of a manifest."""
        return cls(
            evaluations=sum(unit.evaluations for unit in units),
            rate=rate,
            # Without actors, the job's own process is the worker.
            workers=max(1, compute.actors),
            gpus=max(1, compute.actors) * compute.gpus_per_actor,
            gpu_hour=gpu_hour,
        )

    @property
    def seconds(self) -> float:
        """Seconds, if all workers are busy the whole time."""
        return self.evaluations / self.rate / self.workers

    @property
    def gpu_hours(self) -> float:
        """GPU-hours as a provider bills them."""
        return self.seconds / 3600 * self.gpus

    @property
    def price(self) -> float | None:
        """The price, in the currency of the GPU-hour."""
        return None if self.gpu_hour is None else self.gpu_hours * self.gpu_hour

    def line(self, *, measured: bool) -> str:
        """For a terminal."""
        how = "in this process" if measured else "a worker, as given"
        text = (
            f"{'calibration' if measured else 'estimate'}: {self.rate:,.1f} evaluations/s {how}; "
            f"{self.evaluations:,} evaluations take about {duration(self.seconds)} with "
            f"{self.workers} workers as fast as it (denoising alone)"
        )
        if self.price is not None:
            text += f"; {self.gpu_hours:,.2f} GPU-hours at {self.gpu_hour:g}: {self.price:,.2f}"
        return text

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "evaluations": self.evaluations,
            "evaluations_per_second": self.rate,
            "workers": self.workers,
            "seconds": self.seconds,
            "gpu_hours": self.gpu_hours,
            "price": self.price,
        }


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
