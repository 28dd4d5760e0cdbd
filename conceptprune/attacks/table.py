"""The attacks by name: their settings, how they are run, and what they need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from conceptprune.attacks.attempts import Attempt, Scene
from conceptprune.attacks.concept_inversion import ConceptInversion, concept_inversion
from conceptprune.attacks.prompts import PromptFile, Unattacked, drawn
from conceptprune.attacks.refill import FILLS, Refill, refill
from conceptprune.attacks.ring_a_bell import RingABell, ring_a_bell
from conceptprune.attacks.unlearn_diff import UnlearnDiff, unlearn_diff
from conceptprune.manifest.fields import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One kind of attack."""

    settings: type[Section]
    run: Callable[[Scene, Any], list[Attempt]]
    """Given a scene and an instance of `settings`."""
    pictures: bool = False
    """It learns from the base's pictures: white box."""
    together: bool = False
    """All prompts of a concept are one unit of work, because they share what is learned."""


ATTACKS: Mapping[str, Attack] = {
    "none": Attack(settings=Unattacked, run=drawn, together=True),
    "prompt-file": Attack(settings=PromptFile, run=drawn, together=True),
    "ring-a-bell": Attack(settings=RingABell, run=ring_a_bell, together=True),
    "unlearn-diff": Attack(settings=UnlearnDiff, run=unlearn_diff, pictures=True),
    "concept-inversion": Attack(
        settings=ConceptInversion, run=concept_inversion, pictures=True, together=True
    ),
    **{
        f"refill-{name}": Attack(settings=Refill, run=partial(refill, fill), together=True)
        for name, fill in FILLS.items()
    },
}
"""`none` draws the asked prompts as they are: what every other rate is compared with."""
