"""Prompts as a single CLIP text encoder takes them: start, tokens, end, padding; all are heard."""

from typing import Any

from torch import Tensor, nn

from conceptprune.attacks.text import TokenSpace
from conceptprune.models.base import Conditions


class ClipTokens(TokenSpace):
    """The text encoder of Stable Diffusion 1.x and 2.x."""

    title = "Stable Diffusion 1.x and 2.x"

    @property
    def length(self) -> int:
        """See `TokenSpace`."""
        length: int = self.tokenizer.model_max_length
        return length

    @property
    def start(self) -> tuple[int, ...]:
        """See `TokenSpace`."""
        return (self.tokenizer.bos_token_id,)

    @property
    def lookup(self) -> nn.Embedding:
        """See `TokenSpace`."""
        encoder: Any = self.encoder
        lookup: nn.Embedding = encoder.get_input_embeddings()
        return lookup

    def encode_ids(self, ids: Tensor) -> Conditions:
        """See `TokenSpace`; the last states depend on nothing but the embeddings."""
        states: Tensor = self.encoder(ids)[0]
        return {"encoder_hidden_states": states.to(self.model.dtype)}

    def heard(self, ids: Tensor) -> Tensor:
        """See `TokenSpace`; those of the padding are heard like all others."""
        return self.encode_ids(ids)["encoder_hidden_states"]
