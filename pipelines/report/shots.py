"""Shots: one prompt and seed, drawn by the untouched model and by the pruned one."""

import base64
import io
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from ..records.recognised import Seen

Role = Literal["own", "photo", "retained"]
"""Why a prompt is drawn: it asks for the concept; it is the same without it; it asks for another
concept, which is to stay."""

NEEDED = ("prompt", "seed", "png")
"""Columns without which a table of images cannot be shown."""

CRISP_PIXELS = 128
"""Images up to this size are enlarged pixel by pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An image, and what scorers saw in it."""

    png: bytes
    seen: tuple[Seen, ...] = ()

    @property
    def verdict(self) -> str | None:
        """What was seen, in words; None where nobody looked."""
        return ", ".join(dict.fromkeys(each.seen for each in self.seen if each.seen)) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A prompt and seed before and after; an image is None where its unit is not done."""

    prompt: str
    seed: int
    role: Role
    before: Drawn | None
    after: Drawn | None


def pair_shots(
    before: Iterable[Mapping[str, Any]],
    after: Iterable[Mapping[str, Any]],
    *,
    targets: Container[str],
    bases: Container[str],
) -> list[Shot]:
    """Join images by prompt and seed, and say why each prompt was drawn.

    The rows are those of preview tables, each with what was `seen` in the image.
    """
    drawn_before = {(row["prompt"], row["seed"]): _drawn(row) for row in before}
    drawn_after = {(row["prompt"], row["seed"]): _drawn(row) for row in after}
    return [
        Shot(
            prompt=prompt,
            seed=seed,
            role="own" if prompt in targets else "photo" if prompt in bases else "retained",
            before=drawn_before.get((prompt, seed)),
            after=drawn_after.get((prompt, seed)),
        )
        for prompt, seed in {**drawn_before, **drawn_after}
    ]


def _drawn(row: Mapping[str, Any]) -> Drawn:
    return Drawn(png=row["png"], seen=tuple(row["seen"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """How images get into a page."""

    place: Callable[[bytes, str], str]
    """From an image's bytes and the suffix of its format ("png") to the page's `src` for it."""
    max_pixels: int
    """Longest side; a larger image is shrunk."""
    whole: bool
    """Whether strips keep their length however many concepts there are."""


def data_uri(data: bytes, suffix: str) -> str:
    """The image itself, for a page that stands alone."""
    return f"data:image/{suffix};base64,{base64.b64encode(data).decode('ascii')}"


EMBEDDED = Gallery(place=data_uri, max_pixels=256, whole=False)
"""All in the page, and so bounded in size and number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image ready to be put into the page."""

    src: str
    size: tuple[int, int]
    """(width, height) in pixels."""
    crisp: bool
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A shot as a strip shows it."""

    prompt: str
    seed: int
    before: Picture | None
    after: Picture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Shots of one role, side by side; `total` counts those that are not shown too."""

    role: Role
    columns: tuple[Column, ...]
    total: int


def make_strip(
    shots: Sequence[Shot],
    role: Role,
    *,
    limit: int,
    gallery: Gallery = EMBEDDED,
    first: Callable[[Shot], bool] = lambda _: False,
) -> Strip | None:
    """Up to `limit` shots of a role; None where there is none.

    Those that must come `first` do, whatever their prompts; then as many different prompts as
    there are.
    """
    mine = [shot for shot in shots if shot.role == role]
    if not mine:
        return None
    ahead = [shot for shot in mine if first(shot)][:limit]
    others = [shot for shot in mine if not first(shot)]
    shown = [*ahead, *_spread(others, limit - len(ahead))]
    columns = tuple(
        Column(
            prompt=shot.prompt,
            seed=shot.seed,
            before=_picture(shot.before, gallery),
            after=_picture(shot.after, gallery),
        )
        for shot in shown
    )
    return Strip(role=role, columns=columns, total=len(mine))


def _spread(shots: Sequence[Shot], limit: int) -> list[Shot]:
    """Every prompt once where that fills the strip, evenly chosen; else all seeds."""
    first_of_prompt = {shot.prompt: shot for shot in reversed(shots)}
    once = [shot for shot in shots if first_of_prompt[shot.prompt] is shot]
    chosen = once if len(once) >= limit else list(shots)
    count = min(limit, len(chosen))
    return [chosen[index * len(chosen) // count] for index in range(count)]


def _picture(drawn: Drawn | None, gallery: Gallery) -> Picture | None:
    if drawn is None:
        return None
    data, suffix = drawn.png, "png"
    image = Image.open(io.BytesIO(data))
    if max(image.size) > gallery.max_pixels:
        sink = io.BytesIO()
        image.thumbnail((gallery.max_pixels, gallery.max_pixels))
        image.convert("RGB").save(sink, format="jpeg", quality=85)
        data, suffix = sink.getvalue(), "jpeg"
    return Picture(
        src=gallery.place(data, suffix),
        size=image.size,
        crisp=max(image.size) <= CRISP_PIXELS,
        verdict=drawn.verdict,
    )
