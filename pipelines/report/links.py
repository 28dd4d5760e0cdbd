"""Paths of the site's pages: names with digests, never a concept's text alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from conceptprune.digest import digest_json

from ..console.names import slug
from ..records.combined import How
from .evaluations import Checkpoint
from .values import ReportData

OVERVIEW = "index.html"
EVALUATION = "evaluation.html"
COMBINED = "checkpoints/combined.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Paths of pages below the site's folder."""

    by_edit: Mapping[str, str]
    """The page of each mask or rewording of the run, by its digest."""
    how: How = "fused"
    """What the run's combined checkpoint is."""

    @classmethod
    def of(cls, report: ReportData | None) -> "Links":
        """The pages of a run, if there is one."""
        if report is None:
            return cls(by_edit={})
        masks = {
            concept.mask.digest: concept_page(concept.name)
            for concept in report.concepts
            if concept.mask
        }
        combined = report.combined
        if combined is None:
            return cls(by_edit=masks)
        together = {combined.facts.digest: COMBINED} if combined.facts else {}
        return cls(by_edit=masks | together, how=combined.how)

    def checkpoint(self, checkpoint: Checkpoint) -> str:
        """The page of an evaluated checkpoint: the concept's page, if it is a concept's mask."""
        if page := self.by_edit.get(checkpoint.digest):
            return page
        return f"checkpoints/{page_name(checkpoint.label, checkpoint.identity)}.html"


def concept_page(name: str) -> str:
    """The page of a concept; the same in every run."""
    return f"concepts/{page_name(name, digest_json(name))}.html"


def page_name(text: str, digest: str) -> str:
    """A file name: the safe characters of the text, then the start of the digest."""
    words = slug(text)
    return f"{words}-{digest[:10]}" if words else digest[:10]
