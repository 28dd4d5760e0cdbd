"""Images of prompts, generated to the end, for before/after comparisons."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from conceptprune.errors import NoEffectError
from conceptprune.models.generate import Images
from conceptprune.models.images import png, read_image
from conceptprune.models.prompt import Prompt

FORMAT = "preview/3"
SCHEMA = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("png", pa.binary(), nullable=False),
    ],
    metadata={"conceptprune.format": FORMAT, "conceptprune.sorted_by": "prompt,seed"},
)
"""One row per image. Up to preview/2 there were four more columns, for what the studio model's
judge saw; scorers now write that to separate tables (`evaluation.previews`)."""


def preview_table(prompts: Sequence[Prompt], images: Images) -> pa.Table:
    """A table of images uint8 [n, height, width, 3], one per prompt, as PNG."""
    columns = {
        "prompt": [prompt.text for prompt in prompts],
        "seed": [prompt.seed for prompt in prompts],
        "png": [png(image) for image in images],
    }
    table = pa.table(columns, schema=SCHEMA)
    return table.sort_by([("prompt", "ascending"), ("seed", "ascending")])


def hardly_changed(before: Iterable[pa.Table], after: pa.Table) -> bool:
    """Whether every image `after` is among those `before`, up to rounding."""
    known: dict[tuple[str, int], bytes] = {}
    for table in before:
        known |= dict(_images(table))
    return all(
        asked in known and _levels_apart(known[asked], image) < 1 for asked, image in _images(after)
    )


def no_effect(number: int) -> NoEffectError:
    """The error of a mask that changes none of so many images."""
    return NoEffectError(
        f"the mask changes none of {number} images: what was pruned does nothing here; check that "
        "the site is one the model uses, or raise pruning.sparsity"
    )


def _images(table: pa.Table) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Prompt and seed of each image, and its PNG file."""
    for row in table.select(["prompt", "seed", "png"]).to_pylist():
        yield (row["prompt"], row["seed"]), row["png"]


def _levels_apart(one: bytes, other: bytes) -> float:
    """The mean absolute difference of two images of the same size, on a scale of 0 to 255."""
    if one == other:
        return 0.0
    first, second = (read_image(data).astype(np.int16) for data in (one, other))
    return float(np.abs(first - second).mean())
