"""The tables of an evaluation besides its summary: images, and scores per image."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from conceptprune.digest import canonical_json
from conceptprune.evaluation.scorers.base import Case, Labels, Reading, SetReading
from conceptprune.models.images import Image
from conceptprune.models.prompt import Prompt
from conceptprune.store import ObjectRef
from conceptprune.strict_reading import plain_json


def _schema(form: str, order: Sequence[str], *fields: pa.Field) -> pa.Schema:
    return pa.schema(
        list(fields),
        metadata={"conceptprune.format": form, "conceptprune.sorted_by": ",".join(order)},
    )


def _text(name: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, pa.string(), nullable=nullable)


_PROMPT = (_text("prompt"), pa.field("seed", pa.int64(), nullable=False))
_IMAGE = (_text("image"), _text("image_digest"))

IMAGES = _schema(
    "images/1",
    ("prompt", "seed"),
    *_PROMPT,
    pa.field("guidance", pa.float64(), nullable=False),
    _text("role"),
    *_IMAGE,
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
)
"""One row per image of a shard. `role`: its name among the commit's objects; `image`: its path in
the store, a PNG file; `image_digest`: SHA-256 of that file."""

SCORES = _schema(
    "scores/1",
    ("prompt", "seed", "labels", "metric"),
    *_PROMPT,
    _text("labels"),
    _text("metric"),
    pa.field("value", pa.float64()),
    _text("seen", nullable=True),
)
"""One row per image and metric of one scorer. `labels`: JSON of what the image should show by
domain; `value` is null if it cannot be determined; `seen`: what the scorer saw, in its own
words."""

SET_SCORES = _schema(
    "set-scores/1",
    ("metric",),
    _text("metric"),
    *(pa.field(name, pa.float64(), nullable=False) for name in ("value", "low", "high")),
    pa.field("n", pa.int64(), nullable=False),
)
"""One row per metric of one scorer, for a whole set of images."""

ALL_ORDER = ("checkpoint", "group", "name", "prompt", "seed", "guidance")
ALL_IMAGES = _schema(
    "evaluation-images/1",
    ALL_ORDER,
    _text("checkpoint"),
    _text("group"),
    _text("name"),
    *_PROMPT,
    pa.field("guidance", pa.float64(), nullable=False),
    *_IMAGE,
)
"""One row per image of the whole evaluation, by checkpoint's label, group and source's name."""

ALL_SCORES = _schema(
    "evaluation-scores/1",
    (*ALL_ORDER, "scorer", "metric"),
    _text("checkpoint"),
    _text("group"),
    _text("name"),
    *_PROMPT,
    pa.field("guidance", pa.float64(), nullable=False),
    _text("image_digest"),
    _text("scorer"),
    _text("metric"),
    pa.field("value", pa.float64()),
    _text("seen", nullable=True),
)
"""One row per image, scorer and metric of the whole evaluation."""


def labels_json(labels: Labels) -> str:
    """Labels as JSON, as written in the tables."""
    return canonical_json(dict(labels))


def labels_from_json(text: str) -> Labels:
    """The inverse of `labels_json`.

    Raises:
        ValueError: it is something else.
    """
    labels = plain_json(text)
    if not isinstance(labels, dict):
        raise ValueError("labels that are no JSON object")
    return tuple(sorted(labels.items()))


def images_table(
    prompts: Sequence[Prompt],
    images: Sequence[Image],
    refs: Sequence[ObjectRef],
    roles: Sequence[str],
    guidance: float,
) -> pa.Table:
    """The images of one shard."""
    rows = [
        {
            "prompt": prompt.text,
            "seed": prompt.seed,
            "guidance": guidance,
            "role": role,
            "image": ref.path,
            "image_digest": ref.digest,
            "width": image.shape[1],
            "height": image.shape[0],
        }
        for prompt, image, ref, role in zip(prompts, images, refs, roles, strict=True)
    ]
    return sorted_table(rows, IMAGES)


def scores_table(cases: Sequence[Case], readings: Iterable[Reading]) -> pa.Table:
    """The scores of one shard by one scorer."""
    rows = [
        {
            "prompt": cases[reading.case].text,
            "seed": cases[reading.case].seed,
            "labels": labels_json(cases[reading.case].labels),
            "metric": reading.metric,
            "value": reading.value,
            "seen": reading.seen,
        }
        for reading in readings
    ]
    return sorted_table(rows, SCORES)


def set_scores_table(readings: dict[str, SetReading], n: int) -> pa.Table:
    """The numbers of one set of `n` images by one scorer."""
    rows = [
        {
            "metric": metric,
            "value": reading.value,
            "low": reading.low,
            "high": reading.high,
            "n": n,
        }
        for metric, reading in readings.items()
    ]
    return sorted_table(rows, SET_SCORES)


def sorted_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of the rows, sorted as the schema declares."""
    order = schema.metadata[b"conceptprune.sorted_by"].decode().split(",")
    return pa.Table.from_pylist(rows, schema=schema).sort_by(
        [(name, "ascending") for name in order]
    )
