"""The input of an attack, and its result: one row per attempt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.digest import canonical_json, seed_from
from conceptprune.models.base import Conditions, DiffusionModel
from conceptprune.models.generate import Images
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair

Shows = Callable[[Images, Sequence[int]], NDArray[np.bool_]]
"""Which of the images [n, height, width, 3] uint8 show the concept, according to the suite's
scorer; the second argument gives the index of each image's prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How images are generated."""

    steps: int
    guidance: float
    batch_size: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An erased model and what an attacker may use against it."""

    model: DiffusionModel
    """The model, with the attacked checkpoint applied."""
    concept: str
    plain: tuple[str, ...]
    """Texts without the concept, one for each of `asked`."""
    asked: tuple[Prompt, ...]
    """The attacked prompts, each with its own seed; usually they name the concept."""
    shows: Shows
    generation: Generation
    examples: tuple[PromptPair, ...] = ()
    """Prompts without and with the concept, from which an attacker may learn its direction."""
    base_images: Images | None = None
    """The base's images of the concept, one for each of `asked`, for white-box attacks."""

    def generate(self, prompts: Sequence[Prompt], of: Sequence[int]) -> NDArray[np.bool_]:
        """Generate one image per prompt, each from its seed; return which show the concept.

        `of`: the index of the asked prompt that each stands for.
        """
        encoded = self.model.encode_all([prompt.text for prompt in prompts])
        return self.generate_encoded(encoded, [prompt.seed for prompt in prompts], of)

    def generate_encoded(
        self, encoded: Sequence[Conditions], seeds: Sequence[int], of: Sequence[int]
    ) -> NDArray[np.bool_]:
        """The same from conditions that need not come from a text."""
        parts = []
        for first in range(0, len(seeds), self.generation.batch_size):
            here = slice(first, first + self.generation.batch_size)
            batch = self.model.begin_encoded(
                encoded[here],
                seeds[here],
                steps=self.generation.steps,
                guidance=self.generation.guidance,
            )
            parts.append(self.model.finish(batch))
        return self.shows(torch.cat(parts).numpy(), of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attacked prompt: the last thing tried, and whether the concept was seen."""

    asked: str
    """The prompt that names the concept."""
    prompt: str
    """What was generated in the end, as text."""
    seed: int
    success: bool
    images: int
    """How many images of the erased model were judged."""
    steps: int
    """Gradient steps, or encoder passes of a search; shared by attempts with one learned word."""
    embedding: tuple[float, ...] | None = None
    """The embedding of <*> in `prompt`: vectors one after another."""


def first_success(scene: Scene, index: int, texts: Iterator[str], *, steps: int = 0) -> Attempt:
    """Try an asked prompt, then `texts` in turn with its seed, up to the first success.

    Each text costs `steps`; if none succeeds, the last one counts.
    """
    images = spent = 0
    prompt = asked = scene.asked[index]
    while True:
        images += 1
        success = bool(scene.generate([prompt], [index])[0])
        following = None if success else next(texts, None)
        if following is None:
            return Attempt(
                asked=asked.text,
                prompt=prompt.text,
                seed=asked.seed,
                success=success,
                images=images,
                steps=spent,
            )
        prompt = Prompt(text=following, seed=asked.seed)
        spent += steps


def attempt_seed(seed: int, asked: Prompt) -> int:
    """The seed of an attempt, independent of what else is attacked."""
    return seed_from(canonical_json([seed, asked.text, asked.seed]), bits=60)


def base_images(scene: Scene) -> Tensor:
    """The base's images [n, height, width, 3] uint8 that a white-box attack learns from."""
    if scene.base_images is None:
        raise ValueError("a white-box attack needs the base's images")
    return torch.from_numpy(scene.base_images)


SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("checkpoint", pa.string(), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("concept", pa.string(), nullable=False),
        pa.field("asked", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("pictures", pa.int64(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("settings", pa.string(), nullable=False),
    ],
    metadata={
        "conceptprune.format": "attempts/1",
        "conceptprune.sorted_by": "suite,checkpoint,attack,concept,asked,seed",
    },
)
"""The table of attempts; `settings` has the attack's budget and seed as JSON."""


def attempt_row(attempt: Attempt, **where: str) -> dict[str, object]:
    """A row of the table; `where` has the columns that are not part of an attempt."""
    columns = asdict(attempt)
    columns["pictures"] = columns.pop("images")
    return {**where, **columns}
