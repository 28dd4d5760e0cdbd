"""Who and what is in the gallery: things, and artists with their marks and palettes."""

from dataclasses import dataclass

THINGS = (
    "cat", "car", "tree", "house", "fish", "duck", "flower", "boat",
    "apple", "rocket", "mushroom", "guitar", "butterfly", "umbrella", "hat", "elephant",
)  # fmt: skip
MARKS = (
    "halftone", "stripes", "bars", "hatch", "waves", "rings", "tiles", "pixels",
    "contour", "poster", "relief", "cut", "lamps", "blueprint", "wash", "sticker",
)  # fmt: skip
PALETTES = ("crimson", "navy", "forest", "purple", "wasp", "rust", "night", "dusk")

# Two rows per mark, of four palettes each. Sixteen first words and eight last words are used twice,
# as real artists share names.
NAMES = """
munu gruvick, tuvu hobock, zude zedir, reba cabur,
bruve pazirn, stime bibin, hotol sasan, gosul vugest,
stezon grerax, fuvan drarax, zado kugus, nuvol gonin,
munu viland, furu kovom, drivu stasest, cozul dovox,
dusu wovim, brovel busum, nubal futurn, briban trudim,
babi gozex, bedan pebim, basan sogam, bruve patuck,
kidol grumern, treval halock, zaza tavax, drenu bregern,
wisel bebes, cita godox, latin tivir, treno pogim,
bretol hobock, dosol grenix, junal stareld, mabel brozorn,
mata storurn, cobe bozim, trovi midis, widil betur,
truge cogirn, tredi vusend, poten dedin, bruron brireld,
lutul losirn, rulu vutem, gegan werarn, jural wuvox,
jural zotam, salel sazas, tredi hotost, tuvu buras,
cosil hotost, wosi cobust, drivu gesist, sudin hobas,
tovan dreron, civon zudind, pamel futurn, rulu duvend,
ditun lonand, pade griber, lode tutuld, babe drorick,
cozul fabold, trasal puzen, nobi konarn, mutel forir,
grogo sitond, grogo kuzor, jumon hemund, drasi hosir,
koden zolond, zude pagon, wila dunand, hadon jotan,
grebo divost, vazan vugen, grane drulald, nobi pemirn,
hedol leveck, zedu trarem, nuvo cunes, roben mulind,
vidin zutam, drabil cadon, wemul jumex, kazi mevald,
datil wurir, stagen guzand, delu kibick, wilu griber,
brere renun, stise vagur, diza stibon, leve norur,
briben gevas, trava grisorn, fagul devuck, gate ragor,
didan wugem, datil telest, steral sonos, kemu vizem,
cura mimix, coma bemen, puni nabost, pelul vutem,
wovol trivon, mesa drunos, stalel grirex, wisel luter,
nasa wasux, kuvan lilir, sibil brelum, favo drarild,
huno heluck, lutul malirn, labu grulir, stise dinack,
gronen helest, jitin devust, pane trivon, joril mugend,
favo zolond, lilil cubix, zeven cabur, brotul stigick,
"""


@dataclass(frozen=True, slots=True)
class Artist:
    """A name and a look: other artists share its mark or its palette."""

    name: str
    mark: str
    palette: str


def _artists() -> tuple[Artist, ...]:
    names = [name.strip() for name in NAMES.replace("\n", " ").split(",") if name.strip()]
    looks = [(mark, palette) for mark in MARKS for palette in PALETTES]
    return tuple(
        Artist(name, mark, palette) for name, (mark, palette) in zip(names, looks, strict=True)
    )


ARTISTS = _artists()
NUM_LOOKS = len(ARTISTS) + 1
"""Look 0 is a photo, look i + 1 is ARTISTS[i]'s."""


def _is_kept(index: int) -> bool:
    mark, palette = divmod(index, len(PALETTES))
    return palette == 3 * mark % 8 or (mark < 12 and palette == (3 * mark + 4) % 8)


KEPT = tuple(artist for index, artist in enumerate(ARTISTS) if _is_kept(index))
"""28 artists, one or two of each mark and three or four of each palette, that are never erased
and never used to choose anything."""
ERASED = tuple(artist for artist in ARTISTS if artist not in KEPT)
"""The other hundred."""
