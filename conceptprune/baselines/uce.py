"""Unified Concept Editing (UCE): cross-attention keys and values moved in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models" (WACV 2024, arXiv 2308.14761),
equation 7, as the authors' repository rohitgandikota/unified-concept-editing computes it: the
projection W of an `attn2.to_k` or `attn2.to_v` becomes the minimiser of

    erase_scale    * sum over erased tokens c with guide tokens g   |W c - W_old g|^2
  + preserve_scale * sum over preserved tokens p                    |W p - W_old p|^2
  + lamb * |W - W_old|^2 (Frobenius).

The minimiser is `W_old M` with one matrix M for all layers, because what the layers should say is
said by themselves, of the guide. So M is solved for once, in float64.

Which tokens: `trainscripts/uce_sd_erase.py`, the authors' present script, takes the last subject
token alone ("last"; lamb 0.5, both scales 1, guide "art" for artists); `train-scripts/
train_erase.py`, the one at the time of the paper, the last subject token and all that follow it
("rest"; lamb 0.5, erase_scale 1, preserve_scale 0.1, guide " "), and of preserved concepts every
token. Shapes: D the width of the encoded prompt, R the rows of a projection, n tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from conceptprune.errors import UserError

Tokens = Literal["last", "rest", "all"]
"""Of an erased concept and its guide: the last subject token, it and all after it, or every one."""


def tokens_named(name: str) -> Tokens:
    """The choice of that name.

    Raises:
        UserError: there is none.
    """
    choices: tuple[Tokens, ...] = get_args(Tokens)
    for choice in choices:
        if name == choice:
            return choice
    raise UserError(f"--tokens {name}: allowed are {', '.join(choices)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UceSettings:
    """How strongly to edit; the defaults are those of the authors' present script."""

    erase_scale: float = 1.0
    preserve_scale: float = 1.0
    lamb: float = 0.5
    """What it costs to change a weight; above 0."""
    tokens: Tokens = "last"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: a negative scale, or a lamb that is not above 0.
        """
        for name, value in (("erase", self.erase_scale), ("preserve", self.preserve_scale)):
            if not 0 <= value < float("inf"):
                raise UserError(f"--{name}-scale {value:g}: must be a number of at least 0")
        if not 0 < self.lamb < float("inf"):
            raise UserError(f"--lamb {self.lamb:g}: must be a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A text as cross-attention sees it."""

    states: Tensor
    """[n, D] float64."""
    last: int
    """Position of the last token of the text itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A concept to erase, and what to generate in its place."""

    erased: Encoded
    guide: Encoded


def edit_tokens(edit: Edit, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """(erased [n, D], guide [n, D]): which token becomes which."""
    erased, guide = edit.erased, edit.guide
    match tokens:
        case "last":
            return erased.states[[erased.last]], guide.states[[guide.last]]
        case "rest":
            # Aligned at the last subject token; as many as the longer text leaves room for.
            count = len(erased.states) - max(erased.last, guide.last)
            return (
                erased.states[erased.last : erased.last + count],
                guide.states[guide.last : guide.last + count],
            )
        case "all":
            return erased.states, guide.states


def kept_tokens(preserved: Encoded, tokens: Tokens) -> Tensor:
    """[n, D]: which tokens of a concept to preserve."""
    return preserved.states[[preserved.last]] if tokens == "last" else preserved.states


def uce_map(edits: Sequence[Edit], preserved: Sequence[Encoded], settings: UceSettings) -> Tensor:
    """M [D, D] float64, by which a projection [R, D] is multiplied from the right.

    With A the Gram matrix of all tokens, weighted, plus lamb times the identity, and C and G the
    erased and the guide tokens, `M = I + erase_scale (G - C)^T C A^-1`: without edits exactly I.

    Raises:
        ValueError: nothing to edit, so that there is no width D.
    """
    if not edits:
        raise ValueError("no concept to edit")
    pairs = [edit_tokens(edit, settings.tokens) for edit in edits]
    erased = torch.cat([pair[0] for pair in pairs])
    guides = torch.cat([pair[1] for pair in pairs])
    width = erased.shape[1]
    identity = torch.eye(width, dtype=torch.float64)
    gram = settings.lamb * identity + settings.erase_scale * erased.T @ erased
    for concept in preserved:
        kept = kept_tokens(concept, settings.tokens)
        gram += settings.preserve_scale * kept.T @ kept
    moved = settings.erase_scale * (guides - erased).T @ erased
    # X A = B is A^T X^T = B^T, and A is symmetric.
    change: Tensor = torch.linalg.solve(gram, moved.T).T
    return identity + change


def check_widths(weights: Mapping[str, Tensor], width: int) -> None:
    """See that projections [R, D] take the encoded prompt's width.

    Raises:
        UserError: one does not.
    """
    for name, weight in weights.items():
        if weight.shape[1] != width:
            raise UserError(
                f"{name} takes {weight.shape[1]} features, and the encoded prompt has "
                f"{width}: this model's cross-attention does not see the prompt itself"
            )


def edited(weights: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
    """The projections [R, D] times the map [D, D], each in its own dtype, by name.

    Raises:
        UserError: a projection does not take what the text encoder gives.
    """
    check_widths(weights, len(change))
    return {name: (weight.double() @ change).to(weight.dtype) for name, weight in weights.items()}
