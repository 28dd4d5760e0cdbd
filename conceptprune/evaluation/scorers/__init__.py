"""Scorers, one file each: its settings in a suite, and the class that scores."""

from conceptprune.evaluation.scorers.base import (
    Case,
    Facts,
    Metric,
    Reading,
    Scorer,
    ScorerSettings,
    SetReading,
    SetScorer,
)
from conceptprune.evaluation.scorers.table import SCORERS, AnyScorer, declared

__all__ = [
    "SCORERS",
    "AnyScorer",
    "Case",
    "Facts",
    "Metric",
    "Reading",
    "Scorer",
    "ScorerSettings",
    "SetReading",
    "SetScorer",
    "declared",
]
