"""Concepts as texts, and texts as cross-attention sees them: what UCE, RECE and SPEED edit by."""

from collections.abc import Mapping, Sequence

import torch

from conceptprune.baselines.uce import Edit, Encoded
from conceptprune.errors import UserError
from conceptprune.manifest import Concept, Kind, Manifest, concept_key
from conceptprune.models.base import DiffusionModel

GUIDES: Mapping[Kind, str] = {"style": "art", "object": "", "nudity": ""}
"""By kind, what UCE's script generates in a concept's place; other kinds have no name to erase."""

_OF_THINGS = (
    "image of {}",
    "photo of {}",
    "portrait of {}",
    "picture of {}",
    "painting of {}",
)
PHRASES: Mapping[Kind, tuple[str, ...]] = {
    "style": (
        "painting by {}",
        "art by {}",
        "artwork by {}",
        "picture by {}",
        "style of {}",
    ),
    "object": _OF_THINGS,
    "nudity": _OF_THINGS,
}
"""What UCE's script also erases of a concept when it is told to expand prompts: of all that is no
style, what it erases of things."""


def guides_for(concepts: Sequence[Concept], guides: Sequence[str]) -> list[str]:
    """What to generate in each concept's place.

    `guides` are none (then those of `GUIDES`), one for all, or one for each concept.

    Raises:
        UserError: a concept that is not told by its name, or another number of guides.
    """
    if len(guides) not in (0, 1, len(concepts)):
        raise UserError(
            f"--guide: {len(guides)} were given for {len(concepts)} concepts; give one for all, "
            "or one for each in the manifest's order"
        )
    for index, concept in enumerate(concepts):
        if concept.kind not in GUIDES:
            raise UserError(
                f"concepts[{index}] of kind {concept.kind}: UCE, RECE and SPEED edit a concept by "
                f"its name, which only the kinds {', '.join(GUIDES)} are told by"
            )
    if not guides:
        return [GUIDES[concept.kind] for concept in concepts]
    return [guides[index % len(guides)] for index in range(len(concepts))]


def edits_of(
    model: DiffusionModel, concepts: Sequence[Concept], guides: Sequence[str], *, expand: bool
) -> list[Edit]:
    """What to erase, each concept in favour of its guide.

    With `expand` also its phrases, each in favour of the same phrase of the guide.
    """
    edits = []
    for concept, guide in zip(concepts, guides, strict=True):
        phrases = ("{}", *PHRASES[concept.kind]) if expand else ("{}",)
        edits += [
            Edit(
                erased=encoded(model, phrase.format(concept.name)),
                guide=encoded(model, phrase.format(guide)),
            )
            for phrase in phrases
        ]
    return edits


def retained_names(manifest: Manifest) -> list[str]:
    """Names of the concepts to preserve: those retained that are not erased."""
    erased = {concept_key(concept.name) for concept in manifest.concepts}
    return [item.name for item in manifest.retain if concept_key(item.name) not in erased]


def encoded(model: DiffusionModel, text: str) -> Encoded:
    """One text, encoded as in a prompt's place."""
    states = model.prompt_states(model.encode(text))[0]
    tokenizer = model.pipe.tokenizer
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)["input_ids"]
    # Before the end token; of the empty text that is CLIP's start token, as in UCE's script.
    last = max(len(ids) - 2, 0)
    return Encoded(states=states.detach().to("cpu", torch.float64), last=last)
