"""The text encoder's input, opened up: prompts as token ids, and as embeddings with gradients.

T tokens (the encoder's full length), D its width, V its vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel
from conceptprune.models.stable_diffusion import StableDiffusion


@dataclass(frozen=True, slots=True)
class TokenSpace:
    """The one text encoder of a Stable Diffusion 1.x or 2.x model and its tokenizer."""

    model: StableDiffusion

    @classmethod
    def of(cls, model: DiffusionModel) -> "TokenSpace":
        """The token space of a model.

        Raises:
            UserError: the family's text encoders are not supported.
        """
        # A second text encoder (XL) would have to be attacked along with the first.
        if not isinstance(model, StableDiffusion) or len(model.text_encoders()) != 1:
            raise UserError(
                f"attacks on tokens are for Stable Diffusion 1.x and 2.x, not for "
                f"{type(model).__name__}: prompt files and refill work with every family"
            )
        return cls(model)

    @property
    def length(self) -> int:
        """T, start and end tokens included."""
        length: int = self._tokenizer.model_max_length
        return length

    @property
    def room(self) -> int:
        """Tokens of a prompt, without start and end."""
        return self.length - 2

    @property
    def table(self) -> Tensor:
        """The embeddings [V, D] of all tokens."""
        weight = self._lookup.weight
        return weight.detach()

    def usable(self) -> Tensor:
        """Ids [U] of the tokens that a prompt may hold: all but the special ones."""
        special = set(self._tokenizer.all_special_ids)
        return torch.tensor([i for i in range(len(self.table)) if i not in special])

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without start and end, truncated to the available room."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return found[: self.room]

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens; encoding it again may give other tokens."""
        return " ".join(self._tokenizer.decode(list(ids)).split())

    def padded(self, ids: Sequence[int]) -> Tensor:
        """Ids [T] as the encoder takes them: start, tokens, end, padding.

        Raises:
            UserError: there are more tokens than fit.
        """
        if len(ids) > self.room:
            raise UserError(f"{len(ids)} tokens, and the text encoder takes {self.room}")
        tokenizer = self._tokenizer
        whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        whole += [tokenizer.pad_token_id] * (self.length - len(whole))
        return torch.tensor(whole, device=self.model.device)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """The encoder's last states [n, T, D] for padded ids [n, T]."""
        states: Tensor = self._encoder(ids)[0]
        return states.to(self.model.dtype)

    def encode_embeddings(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """The last states [n, T, D] for `embeddings` [n, T, D] instead of those of `ids` [T].

        Gradients flow to the embeddings; the last states depend on nothing else.
        """

        def replaced(_module: nn.Module, _inputs: Any, _output: Tensor) -> Tensor:
            return embeddings

        hook = self._lookup.register_forward_hook(replaced)
        try:
            return self.encode_ids(ids.expand(len(embeddings), -1))
        finally:
            hook.remove()

    def conditions(self, states: Tensor) -> Conditions:
        """The denoiser's conditions for states [n, T, D]."""
        return {"encoder_hidden_states": states}

    @property
    def _tokenizer(self) -> Any:
        return self.model.pipe.tokenizer

    @property
    def _encoder(self) -> nn.Module:
        encoder: nn.Module = self.model.pipe.text_encoder
        return encoder

    @property
    def _lookup(self) -> nn.Embedding:
        lookup: nn.Embedding = self.model.pipe.text_encoder.get_input_embeddings()
        return lookup
