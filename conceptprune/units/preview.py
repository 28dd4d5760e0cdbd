"""Images of prompts, generated to the end, for before/after comparisons."""

from collections.abc import Sequence

import pyarrow as pa

from conceptprune.models.generate import Images
from conceptprune.models.images import png
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
"""One row per image. Up to preview/2 there were four more columns, for what the demo model's judge
saw; scorers now write that to separate tables (`evaluation.previews`)."""


def preview_table(prompts: Sequence[Prompt], images: Images) -> pa.Table:
    """A table of images uint8 [n, height, width, 3], one per prompt, as PNG."""
    columns = {
        "prompt": [prompt.text for prompt in prompts],
        "seed": [prompt.seed for prompt in prompts],
        "png": [png(image) for image in images],
    }
    table = pa.table(columns, schema=SCHEMA)
    return table.sort_by([("prompt", "ascending"), ("seed", "ascending")])
