"""The strengths that `tune` chooses from, and manifests that have them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import JobManifest, ScoredOutputs
from conceptprune.manifest import Reword
from conceptprune.manifest.pruning import ConceptPruning

from .preparation import Prepared
from .sizes import sizes_of

SPARSITIES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
FACTORS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
"""Of what a rewording keeps, so that the first of them changes the least."""
SCALED = ("retain", "base", "empty", "vocabulary")
"""The strengths of a rewording that a factor multiplies."""
MOST_STRENGTHS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What has a strength of its own: one concept's mask, or the rewording of all."""

    names: tuple[str, ...]
    """Its concepts."""
    strengths: tuple[float, ...]
    """To choose from, the one that changes the least first."""
    reworded: bool = False

    @property
    def title(self) -> str:
        """As the tables of `erase` name it."""
        return "(all, reworded)" if self.reworded else self.names[0]


def check_shares(gone: float, hold: float) -> None:
    """Check `--gone` and `--hold`.

    Raises:
        UserError: one is no such share.
    """
    if not 0 <= gone < 1:
        raise UserError(
            f"--gone {gone:g}: give the share of its images that may still show a concept, from 0 "
            "to below 1"
        )
    if not 0 <= hold <= 1:
        raise UserError(
            f"--hold {hold:g}: give the share that must be left of what is right in the other "
            "images, from 0 to 1"
        )


def read_strengths(text: str | None, *, reworded: bool) -> tuple[float, ...]:
    """The numbers of `--values`, or the usual ones; the one that changes the least first.

    Raises:
        UserError: they are not such numbers.
    """
    if text is None:
        return FACTORS if reworded else SPARSITIES
    what = "factors above 0" if reworded else "sparsities above 0 and at most 1 (0.01 is 1 %)"
    try:
        found = {float(part) for part in text.split(",")}
    except ValueError as error:
        raise UserError(f"--values {text}: give {what}, as --values 0.01,0.02,0.04") from error
    most = math.inf if reworded else 1
    if len(found) > MOST_STRENGTHS or not all(
        0 < value <= most and math.isfinite(value) for value in found
    ):
        raise UserError(f"--values {text}: give at most {MOST_STRENGTHS} {what}")
    return tuple(sorted(found, reverse=reworded))


def subjects_of(
    prepared: Prepared, strengths: Sequence[float], source: object
) -> tuple[tuple[Subject, ...], tuple[float, ...]]:
    """What is to be tuned in a manifest, `source` in messages.

    Returns:
        The subjects, and the strengths that some of them cannot have: so little of its narrowest
        layer that no weight is selected.

    Raises:
        UserError: a concept has no such strength.
    """
    manifest = prepared.manifest
    names = tuple(concept.name for concept in manifest.concepts)
    if manifest.rewording:
        return (Subject(names=names, strengths=tuple(strengths), reworded=True),), ()
    narrowest = min(columns for _, columns in sizes_of(prepared).shapes.values())
    found = []
    none: set[float] = set()
    for index, concept in enumerate(manifest.concepts):
        pruning = manifest.pruning_of(concept)
        if pruning.selector != "conceptprune":
            raise UserError(
                f"{source}: concepts[{index}]: tune chooses pruning.sparsity, and the selector "
                f"{pruning.selector} of {concept.name} has none; it needs selector: conceptprune"
            )
        mine = tuple(
            value
            for value in strengths
            if pruning.model_copy(update={"sparsity": value}).columns_per_row(narrowest)
        )
        if not mine:
            raise UserError(
                f"--values: the largest, {max(strengths):g}, is less than one of the {narrowest} "
                f"weights per row of the narrowest layer; raise it or set pruning.min_per_row: 1"
            )
        none |= set(strengths) - set(mine)
        found.append(Subject(names=(concept.name,), strengths=mine))
    return tuple(found), tuple(sorted(none))


def scaled(reword: Reword, factor: float) -> dict[str, float]:
    """The strengths of a rewording times a factor, short enough to be written out."""
    return {name: float(f"{getattr(reword, name) * factor:.6g}") for name in SCALED}


def with_strengths(prepared: Prepared, chosen: Mapping[Subject, float]) -> Prepared:
    """The job that erases some subjects with these strengths: no outputs, nothing to score."""
    manifest = prepared.manifest
    changes: dict[str, Any] = {"outputs": ScoredOutputs()}
    by_name = {name: strength for each, strength in chosen.items() for name in each.names}
    if manifest.rewording:
        (factor,) = chosen.values()
        strengths = scaled(manifest.rewording, factor)
        changes["reword"] = manifest.rewording.model_copy(update=strengths)
    else:
        changes["concepts"] = tuple(
            concept.model_copy(
                update={
                    "pruning": (concept.pruning or ConceptPruning()).model_copy(
                        update={"sparsity": by_name[concept.name]}
                    )
                }
            )
            for concept in manifest.concepts
            if concept.name in by_name
        )
    changed: JobManifest = manifest.model_copy(update=changes)  # type: ignore[assignment]
    return replace(prepared, manifest=changed, scorers=())
