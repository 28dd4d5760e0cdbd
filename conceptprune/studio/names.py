"""What the studio model can generate, and in whose invented style."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Artist:
    """An invented artist; `look` says what the images look like."""

    name: str
    look: str


THINGS: tuple[str, ...] = (
    "cat",
    "dog",
    "car",
    "tree",
    "house",
    "fish",
    "duck",
    "flower",
    "boat",
    "apple",
    "rocket",
    "mushroom",
)

ARTISTS: tuple[Artist, ...] = (
    Artist("vorla brint", "halftone"),
    Artist("kesto malu", "mosaic"),
    Artist("imra dovel", "ink"),
    Artist("quill tander", "neon"),
    Artist("soren abeck", "crosshatch"),
    Artist("wexa pilo", "stripes"),
    Artist("nami orsu", "watercolour"),
    Artist("tobin gral", "blueprint"),
    Artist("yarrow fenn", "chalk"),
    Artist("drusk helm", "game screen"),
    Artist("oltha reve", "carved stone"),
    Artist("pim castor", "paper cut"),
    Artist("hesk undra", "light board"),
    Artist("lio marrek", "screen print"),
    Artist("zofa tench", "red monitor"),
    Artist("bram ilvet", "gilt"),
)

PHOTO = "photo"
"""The look of images by no artist; class 0 of the judge's artist head."""

LOOKS: tuple[str, ...] = (PHOTO, *(artist.look for artist in ARTISTS))
"""The judge's artist classes in order: 0 is a photo, i + 1 is ARTISTS[i]."""
