"""The text encoder's input, opened up: prompts as token ids, and as embeddings with gradients.

What differs between text encoders is in one subclass each (`clip_text.py`, `t5_text.py`); which
family has which is in `token_spaces.py`.

T tokens (the encoder's full length), D its width, V its vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel


@dataclass(frozen=True, slots=True)
class TokenSpace(ABC):
    """The one text encoder of a model and its tokenizer."""

    title: ClassVar[str]
    """The models that it is of, for messages."""

    model: DiffusionModel

    @property
    @abstractmethod
    def length(self) -> int:
        """T, with the tokens before and after a prompt's own."""

    @property
    @abstractmethod
    def start(self) -> tuple[int, ...]:
        """Ids before a prompt's own tokens."""

    @property
    @abstractmethod
    def lookup(self) -> nn.Embedding:
        """The module through which the encoder turns ids [n, T] into embeddings [n, T, D]."""

    @abstractmethod
    def encode_ids(self, ids: Tensor) -> Conditions:
        """The denoiser's conditions, each [n, ...], for padded ids [n, T]."""

    @abstractmethod
    def heard(self, ids: Tensor) -> Tensor:
        """The last states [n, T, D] for padded ids [n, T]; zero where the denoiser hears none."""

    @property
    def first(self) -> int:
        """The position of a prompt's first own token."""
        return len(self.start)

    @property
    def room(self) -> int:
        """Tokens of a prompt, without those before them and the end."""
        return self.length - self.first - 1

    @property
    def table(self) -> Tensor:
        """The embeddings [V, D] of all tokens."""
        return self.lookup.weight.detach()

    def usable(self) -> Tensor:
        """Ids [U] of the tokens that a prompt may hold: all but the special ones."""
        special = set(self.tokenizer.all_special_ids)
        # A table may have rows to spare, which are no tokens.
        known = min(len(self.table), len(self.tokenizer))
        return torch.tensor([i for i in range(known) if i not in special])

    def ids(self, text: str) -> list[int]:
        """The own tokens of a text, truncated to the available room."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found[: self.room]

    def ids_after_word(self, text: str) -> list[int]:
        """The same for a text that goes on after a word, such as ", indoors"."""
        return self.ids(text.strip())

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens; encoding it again may give other tokens."""
        return " ".join(self.tokenizer.decode(list(ids)).split())

    def padded(self, ids: Sequence[int]) -> Tensor:
        """Ids [T] as the encoder takes them: start if any, tokens, end, padding.

        Raises:
            UserError: there are more tokens than fit.
        """
        if len(ids) > self.room:
            raise UserError(f"{len(ids)} tokens, and the text encoder takes {self.room}")
        whole = [*self.start, *ids, self.tokenizer.eos_token_id]
        whole += [self.tokenizer.pad_token_id] * (self.length - len(whole))
        return torch.tensor(whole, device=self.model.device)

    def encode_embeddings(self, embeddings: Tensor, ids: Tensor) -> Conditions:
        """The conditions for `embeddings` [n, T, D] in the place of those of `ids` [n, T].

        Gradients flow to the embeddings. The ids only say where prompts end.
        """

        def replaced(_module: nn.Module, _inputs: Any, _output: Tensor) -> Tensor:
            return embeddings

        hook = self.lookup.register_forward_hook(replaced)
        try:
            return self.encode_ids(ids)
        finally:
            hook.remove()

    @property
    def tokenizer(self) -> Any:
        """The pipeline's tokenizer."""
        return self.model.pipe.tokenizer

    @property
    def encoder(self) -> nn.Module:
        """The text encoder, brought back if it was freed."""
        return self.model.text_encoders()["text_encoder"]
