"""The manifest of an erase job: `conceptprune.manifest` plus the scorers of previews.

The manifest package is a lower layer than the scorers and cannot import them; light to import.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from conceptprune.evaluation.scorers.base import ScorerSettings
from conceptprune.evaluation.scorers.studio_judge import StudioJudgeSettings
from conceptprune.evaluation.scorers.table import AnyScorer, refuse_same_titles
from conceptprune.manifest import Manifest, Outputs, Preview
from conceptprune.manifest.fields import FieldPath, refusal
from conceptprune.manifest.loading import load_document


class ScoredPreview(Preview):
    """Images before and after, and the scorers of these."""

    scorers: Annotated[
        tuple[AnyScorer, ...],
        Field(description="a list of {scorer: ..., settings}, as in a suite"),
    ] = ()

    @field_validator("scorers")
    @classmethod
    def _of_single_images(cls, scorers: tuple[AnyScorer, ...]) -> tuple[AnyScorer, ...]:
        refuse_same_titles(scorers)
        problems: list[tuple[FieldPath, str]] = [
            (
                (index,),
                "a scorer of single images "
                f"({scorer.title} compares images with others: use a suite)",
            )
            for index, scorer in enumerate(scorers)
            if scorer.of_sets or scorer.compares
        ]
        if problems:
            raise refusal(*problems)
        return scorers

    @property
    def all_scorers(self) -> tuple[ScorerSettings, ...]:
        """The scorers, including the one that `judge` stands for."""
        if self.judge is None or any(
            isinstance(each, StudioJudgeSettings) for each in self.scorers
        ):
            return self.scorers
        return (*self.scorers, StudioJudgeSettings(scorer="studio-judge"))


class ScoredOutputs(Outputs):
    """What is written in addition to the masks."""

    preview: Annotated[
        ScoredPreview | None,
        Field(description="null, or a section of its own ({} for its defaults)"),
    ] = None


class JobManifest(Manifest):
    """A whole manifest, with every scorer checked."""

    outputs: ScoredOutputs = ScoredOutputs()

    @property
    def scorers(self) -> tuple[ScorerSettings, ...]:
        """The scorers of previews."""
        return self.outputs.preview.all_scorers if self.outputs.preview else ()


def load_job_manifest(path: Path | str) -> JobManifest:
    """Read and check the manifest at `path`, scorers too.

    Raises:
        ManifestError: it cannot be read or breaks a rule; the message lists every problem.
    """
    return load_document(path, JobManifest)
