"""Images of prompts, drawn by a model to the end and judged, for before/after comparisons."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from conceptprune.models.draw import Images
from conceptprune.models.images import png
from conceptprune.models.prompt import Prompt
from conceptprune.studio.asked import asked
from conceptprune.studio.names import LOOKS, THINGS

if TYPE_CHECKING:
    from conceptprune.studio.judge import Judge

SCHEMA = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("png", pa.binary(), nullable=False),
        pa.field("asked_thing", pa.string()),
        pa.field("asked_look", pa.string()),
        pa.field("seen_thing", pa.string()),
        pa.field("seen_look", pa.string()),
    ],
    metadata={"conceptprune.format": "preview/2", "conceptprune.sorted_by": "prompt,seed"},
)
"""One row an image; the last four columns are null where there is no judge."""


def preview_table(prompts: Sequence[Prompt], images: Images, judge: "Judge | None") -> pa.Table:
    """The images as PNG with what was asked for and what the studio's judge saw."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    verdicts = judge.verdicts(images) if judge else None
    for index, prompt in enumerate(prompts):
        columns["prompt"].append(prompt.text)
        columns["seed"].append(prompt.seed)
        columns["png"].append(png(images[index]))
        wanted = asked(prompt.text) if verdicts else None
        columns["asked_thing"].append(wanted.thing if wanted else None)
        columns["asked_look"].append(wanted.look if wanted else None)
        columns["seen_thing"].append(THINGS[verdicts.thing[index]] if verdicts else None)
        columns["seen_look"].append(LOOKS[verdicts.artist[index]] if verdicts else None)
    table = pa.table(columns, schema=SCHEMA)
    return table.sort_by([("prompt", "ascending"), ("seed", "ascending")])
