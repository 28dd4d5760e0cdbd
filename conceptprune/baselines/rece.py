"""RECE: erase with UCE, find in closed form what still generates the concept, erase that, repeat.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models" (ECCV 2024,
arXiv 2407.12383), after the authors' repository CharlesGong12/RECE (`train_artists.py` with
`close_regzero`, the paper's equation 8; `scripts/` and the README have the settings by kind). The
embedding that makes the edited projections W_i say
of it what the untouched ones said of the concept's c, kept short by `regularisation`, is

    c' = (regularisation I + sum_i W_i^T W_i)^-1 (sum_i W_i^T W_i_old) c,

for every token. It is then erased as by UCE, from the projections as they are by then.

As UCE's edits are one map M for all layers (`uce.py`), so are RECE's, and all it needs of the
layers is their Gram matrix `H = sum_i W_i_old^T W_i_old`. Shapes: D, the encoded prompt's width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from conceptprune.baselines.uce import Edit, Encoded, UceSettings, uce_map
from conceptprune.errors import UserError
from conceptprune.manifest import Kind

FIRST = UceSettings(preserve_scale=0.1, tokens="rest")
"""UCE as it was when RECE was published: its checkpoints are what RECE starts from."""
AGAIN = UceSettings(preserve_scale=0.1, lamb=0.1, tokens="all")


PUBLISHED: Mapping[Kind, tuple[int, float]] = {
    "style": (1, 1e-3),
    "nudity": (3, 0.1),
    "object": (1, 1e-3),
}
"""By kind, the authors' (epochs, regularisation). Objects that UCE erases easily (English springer,
golf ball, parachute) have a regularisation of 0.1; of those that it erases wholly, none is needed.
"""


def published(kinds: Iterable[Kind]) -> tuple[int, float]:
    """The authors' (epochs, regularisation) for concepts that are erased together.

    Raises:
        UserError: they are of kinds with different ones.
    """
    found = {PUBLISHED[kind] for kind in kinds if kind in PUBLISHED}
    if len(found) > 1:
        raise UserError(
            "RECE's published settings differ between the manifest's kinds of concepts: give "
            "--epochs and --regularisation, or erase each kind by a manifest of its own"
        )
    return found.pop() if found else PUBLISHED["style"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceSettings:
    """The defaults are those of the authors' script for artists."""

    first: UceSettings = field(default=FIRST)
    """The erasure of the concepts themselves."""
    again: UceSettings = field(default=AGAIN)
    """The erasures of what was found."""
    epochs: int = 1
    regularisation: float = 1e-3
    """Above 0; the larger, the less like the concept is what is erased."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: no epoch, or a regularisation that is not above 0.
        """
        if self.epochs < 1:
            raise UserError(f"--epochs {self.epochs}: must be a whole number of at least 1")
        if not 0 < self.regularisation < float("inf"):
            raise UserError(f"--regularisation {self.regularisation:g}: must be a number above 0")


def gram_of(weights: Sequence[Tensor]) -> Tensor:
    """H [D, D] float64 of projections [R_i, D]."""
    return torch.stack([weight.double().T @ weight.double() for weight in weights]).sum(dim=0)


def returning(erased: Encoded, gram: Tensor, change: Tensor, regularisation: float) -> Encoded:
    """What still generates a concept after projections were edited by the map `change` [D, D]."""
    identity = torch.eye(len(gram), dtype=torch.float64)
    left = regularisation * identity + change.T @ gram @ change
    states: Tensor = torch.linalg.solve(left, change.T @ gram @ erased.states.T).T
    return replace(erased, states=states)


def rece_map(
    edits: Sequence[Edit],
    preserved: Sequence[Encoded],
    gram: Tensor,
    settings: ReceSettings,
) -> Tensor:
    """M [D, D] float64, by which a projection [R, D] is multiplied from the right.

    `gram` is `gram_of` the untouched projections. The empty prompt is among the authors' preserved
    texts of the later steps: it is up to the caller to give it.
    """
    change = uce_map(edits, preserved, settings.first)
    for _ in range(settings.epochs):
        found = [
            replace(edit, erased=returning(edit.erased, gram, change, settings.regularisation))
            for edit in edits
        ]
        change = change @ uce_map(found, preserved, settings.again)
    return change
