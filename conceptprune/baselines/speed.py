"""SPEED: cross-attention's values moved in closed form, within what retained concepts leave free.

Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models" (ICLR
2026, arXiv 2503.07392), as the authors' repository Ouxiang-Li/SPEED computes it
(`train_erase_null.py`): a value projection W becomes W + Y, with Y the minimiser of

    mean over erased tokens c with guide tokens g  |(W + Y) c - W g|^2  +  retain_scale * |Y|^2

among those that change nothing of what is retained (Y = Y P) and of the invariants (Y K = 0). P
projects onto the directions in which the mean of x x^T over retained tokens x has an eigenvalue
below `threshold`. K has the empty prompt's first token and three centres of its others. With T the
mean of c c^T, G that of g c^T, and M = (T P + retain_scale I)^-1,

    Y = W (G - T) P (I - M K (K^T P M K + lamb I)^-1 K^T P) M.

What is retained is refined for each layer. Of the retained tokens, those stay that the edit without
constraints, W (G - T) (I + T)^-1, changes by more than the mean (the filter). To these come copies
with noise along the layer's last right singular vector, in which it says least (augmentation); of
the copies, those that the edit changes by more than the mean of all copies. There the authors take
the mean of 128 at a time, in a random order; their centres start at random, ours evenly.

A token is a text's last subject token. The authors run styles with the defaults below, guide "art"
and 1,734 artists' names to retain (`scripts/eval_few.sh`), one style at a time; up to 100
celebrities (`scripts/eval_multi.sh`, MANY) with guide "person" and 100 other names. Shapes: D the
width of the encoded prompt, R the rows of a projection, n tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptprune.baselines.uce import Edit, Encoded
from conceptprune.edits.projections import check_widths
from conceptprune.errors import UserError

CENTRES = 3
"""By k-means, of the empty prompt's tokens after the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """The defaults are those of the authors' script for styles."""

    augment: int = 10
    """Noisy copies of each retained token; 0 leaves out the filter, too, as in the script."""
    threshold: float = 1e-1
    """Directions with a larger eigenvalue are not edited; its meaning depends on the encoder."""
    retain_scale: float = 1.0
    """What it costs to change a weight; above 0."""
    lamb: float = 0.0
    """How loosely the invariants stay: at 0 they do not change."""
    filtered: bool = True
    """Whether only those retained tokens count that the edit would change much."""
    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: one has no solution.
        """
        if self.augment < 0:
            raise UserError(f"--augment {self.augment}: must be a whole number of at least 0")
        for name, value in (("threshold", self.threshold), ("retain-scale", self.retain_scale)):
            if not 0 < value < float("inf"):
                raise UserError(f"--{name} {value:g}: must be a number above 0")
        if not 0 <= self.lamb < float("inf"):
            raise UserError(f"--lamb {self.lamb:g}: must be a number of at least 0")


MANY = SpeedSettings(threshold=1e-4, retain_scale=0.05, filtered=False)
"""The authors' settings for 10, 50 and 100 celebrities."""


def invariants(empty: Encoded) -> Tensor:
    """K^T [1 + CENTRES, D]: of the empty prompt, the first token and the centres of the others."""
    first, others = empty.states[:1], empty.states[1:]
    places = torch.linspace(0, len(others) - 1, min(CENTRES, len(others))).round().long()
    centres = others[places]
    for _ in range(100):
        groups = torch.cdist(others, centres).argmin(dim=1)
        centres = torch.stack(
            [
                others[groups == each].mean(dim=0) if (groups == each).any() else centre
                for each, centre in enumerate(centres)
            ]
        )
    return torch.cat([first, centres])


def last_tokens(texts: Sequence[Encoded]) -> Tensor:
    """[n, D]: each text's last subject token."""
    return torch.stack([text.states[text.last] for text in texts])


def refined(
    kept: Tensor,
    weight: Tensor,
    unconstrained: Tensor,
    settings: SpeedSettings,
    generator: torch.Generator,
) -> Tensor:
    """Retained tokens [m, D] for one layer, of `kept` [n, D]: filtered, then augmented.

    `unconstrained` [R, D] is what the edit would add to the layer's `weight` [R, D].
    """
    if settings.augment == 0:
        return kept
    if settings.filtered:
        kept = _changed_most(kept, unconstrained)
    least = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    copies = kept.repeat(settings.augment, 1)
    noise = torch.randn(len(copies), 1, generator=generator, dtype=copies.dtype)
    return torch.cat([kept, _changed_most(copies + noise * least, unconstrained)])


def free_directions(kept: Tensor, threshold: float) -> Tensor:
    """[D, d]: a basis of where the mean of x x^T over `kept` [n, D] is below the threshold."""
    values, vectors = torch.linalg.eigh(kept.T @ kept / len(kept))
    free: Tensor = vectors[:, values < threshold]
    return free


def speed_weights(
    weights: Mapping[str, Tensor],
    edits: Sequence[Edit],
    retained: Sequence[Encoded],
    empty: Encoded,
    settings: SpeedSettings,
) -> dict[str, Tensor]:
    """The projections [R, D] after the edit, each in its own dtype, by name.

    Without retained concepts the empty prompt's tokens are retained, as in the authors' script.

    Raises:
        UserError: a projection does not take what the text encoder gives.
        ValueError: nothing to edit.
    """
    if not edits:
        raise ValueError("no concept to edit")
    erased = last_tokens([edit.erased for edit in edits])
    guides = last_tokens([edit.guide for edit in edits])
    check_widths(weights, erased.shape[1])
    identity = torch.eye(erased.shape[1], dtype=torch.float64)
    gram = erased.T @ erased / len(edits)
    moved = guides.T @ erased / len(edits) - gram
    fixed = invariants(empty).T
    kept = last_tokens(retained) if retained else empty.states[1:]
    generator = torch.Generator().manual_seed(settings.seed)
    found = {}
    for name, stored in weights.items():
        weight = stored.double()
        # X A = B is A^T X^T = B^T, and I + T is symmetric.
        unconstrained = torch.linalg.solve(identity + gram, (weight @ moved).T).T
        tokens = refined(kept, weight, unconstrained, settings, generator)
        # As P = B B^T: P M = B (B^T T B + retain_scale I)^-1 B^T.
        basis = free_directions(tokens, settings.threshold)
        scaled = torch.eye(basis.shape[1], dtype=torch.float64) * settings.retain_scale
        inverse = torch.linalg.inv(basis.T @ gram @ basis + scaled)
        free = basis.T @ fixed
        inner = free.T @ inverse @ free
        inner += settings.lamb * torch.eye(len(inner), dtype=torch.float64)
        # An invariant that is retained already needs no constraint: what is left of it is rounding.
        rounding = 1e-13 * float(fixed.square().sum()) / settings.retain_scale
        solved = torch.linalg.pinv(inner, atol=rounding, hermitian=True)
        constrained = inverse - inverse @ free @ solved @ free.T @ inverse
        change = weight @ moved @ basis @ constrained @ basis.T
        found[name] = (weight + change).to(stored.dtype)
    return found


def _changed_most(tokens: Tensor, change: Tensor) -> Tensor:
    """Those of `tokens` [n, D] that `change` [R, D] moves by more than the mean; all, if alike."""
    norms = (tokens @ change.T).norm(dim=1)
    most = norms > norms.mean()
    return tokens[most] if most.any() else tokens
