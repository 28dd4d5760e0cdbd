"""Prompts as a single T5 encoder takes them: tokens, end, and padding, which a mask hides."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptprune.attacks.text import TokenSpace
from conceptprune.models.base import Conditions

WORD = "x"
"""Some word, after which a text can go on."""


class T5Tokens(TokenSpace):
    """The text encoder of PixArt-alpha and PixArt-Sigma, whose pipelines lower all letters."""

    title = "PixArt"

    @property
    def length(self) -> int:
        """See `TokenSpace`; the two pipelines differ, and their tokenizers do not say it."""
        parameters = inspect.signature(self.model.pipe.encode_prompt).parameters
        length: int = parameters["max_sequence_length"].default
        return length

    @property
    def start(self) -> tuple[int, ...]:
        """None: a prompt begins with its own tokens."""
        return ()

    @property
    def lookup(self) -> nn.Embedding:
        """See `TokenSpace`; the encoder's own, not the outer module's, whose weight it shares."""
        encoder: Any = self.encoder
        lookup: nn.Embedding = encoder.encoder.embed_tokens
        return lookup

    def usable(self) -> Tensor:
        """See `TokenSpace`; without tokens with capitals, which a prompt cannot hold."""
        found = super().usable()
        pieces = self.tokenizer.convert_ids_to_tokens(found.tolist())
        return found[[piece == piece.lower() for piece in pieces]]

    def ids(self, text: str) -> list[int]:
        """See `TokenSpace`; letters are lowered, as in the pipeline."""
        return super().ids(text.lower().strip())

    def ids_after_word(self, text: str) -> list[int]:
        """See `TokenSpace`; alone, the text would begin with a space."""
        word, whole = self.ids(WORD), self.ids(WORD + text)
        return whole[len(word) :] if whole[: len(word)] == word else self.ids(text)

    def encode_ids(self, ids: Tensor) -> Conditions:
        """See `TokenSpace`."""
        mask = self._mask(ids)
        states: Tensor = self.encoder(ids, attention_mask=mask)[0]
        return {
            "encoder_hidden_states": states.to(self.model.dtype),
            "encoder_attention_mask": mask,
        }

    def heard(self, ids: Tensor) -> Tensor:
        """See `TokenSpace`; those of the padding are not, and what no row needs is not computed."""
        needed = int(self._mask(ids).sum(1).max())
        conditions = self.encode_ids(ids[:, :needed])
        mask = conditions["encoder_attention_mask"]
        states = conditions["encoder_hidden_states"] * mask[..., None]
        return F.pad(states, (0, 0, 0, ids.shape[1] - needed))

    def _mask(self, ids: Tensor) -> Tensor:
        """Ones [n, T] up to each row's end token, behind which there is only padding."""
        is_own = (ids != self.tokenizer.pad_token_id).long()
        # A running maximum from the right: a text may spell a padding token out.
        return torch.cummax(is_own.flip(-1), -1).values.flip(-1)
