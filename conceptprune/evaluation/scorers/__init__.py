"""Scorers by name, a file each: settings as a suite has them, and the class that scores."""

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
