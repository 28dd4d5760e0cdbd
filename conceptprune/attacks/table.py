"""The attacks by name: their settings, how to run them, and what they need."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from conceptprune.attacks.attempts import Attempt, Scene
from conceptprune.attacks.concept_inversion import concept_inversion
from conceptprune.attacks.random_tokens import random_tokens
from conceptprune.attacks.refill import FILLS, refill
from conceptprune.attacks.ring_a_bell import ring_a_bell
from conceptprune.attacks.unattacked import unattacked
from conceptprune.attacks.unlearn_diff import unlearn_diff
from conceptprune.errors import UserError
from conceptprune.evaluation.attack_settings import Attacks, AttackSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One kind of attack."""

    settings: Callable[[Attacks], AttackSettings]
    """Its part of the suite's `attacks:` section."""
    run: Callable[[Scene, Any], list[Attempt]]
    """Runs the attack on a scene with those settings."""
    needs_images: bool = False
    """True if it learns from the base's images (white box)."""
    tokens: bool = False
    """True if it uses `text.TokenSpace`, which the families of `token_spaces.py` have."""
    alone: bool = False
    """True if each prompt is a separate unit: nothing is learned across a concept's prompts."""


ATTACKS: Mapping[str, Attack] = {
    "none": Attack(settings=lambda every: every.none, run=unattacked),
    "ring-a-bell": Attack(
        settings=lambda every: every.ring_a_bell, run=ring_a_bell, tokens=True, alone=True
    ),
    "unlearn-diff": Attack(
        settings=lambda every: every.unlearn_diff,
        run=unlearn_diff,
        needs_images=True,
        tokens=True,
        alone=True,
    ),
    "random-tokens": Attack(
        settings=lambda every: every.random_tokens, run=random_tokens, tokens=True, alone=True
    ),
    "concept-inversion": Attack(
        settings=lambda every: every.concept_inversion,
        run=concept_inversion,
        needs_images=True,
        tokens=True,
    ),
    **{
        f"refill-{name}": Attack(settings=lambda every: every.refill, run=partial(refill, fill))
        for name, fill in FILLS.items()
    },
}
"""`none` uses prompts unchanged and `random-tokens` guesses: both are baselines for the others."""


def check_names(names: Sequence[str]) -> None:
    """Check that there are attacks, and that each one is known.

    Raises:
        UserError: there is none, or an unknown one.
    """
    if not names:
        raise UserError(f"--attack: name at least one of {', '.join(ATTACKS)}")
    for name in names:
        if name not in ATTACKS:
            close = difflib.get_close_matches(name, ATTACKS, n=1)
            nearest = f"; nearest: {close[0]}" if close else ""
            raise UserError(f"--attack {name}: allowed are {', '.join(ATTACKS)}{nearest}")
