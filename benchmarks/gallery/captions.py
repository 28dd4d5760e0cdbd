"""The captions of the images."""

from benchmarks.gallery.names import ARTISTS, NUM_LOOKS, THINGS
from conceptprune.studio.training.captions import ARTIST_CAPTIONS, NUM_TEMPLATES, PHOTO_CAPTIONS


def caption(thing: int, look: int, template: int = 0) -> str:
    """The caption of an image; look 0 is a photo, i + 1 is ARTISTS[i]."""
    if look == 0:
        return PHOTO_CAPTIONS[template].format(thing=THINGS[thing])
    return ARTIST_CAPTIONS[template].format(thing=THINGS[thing], artist=ARTISTS[look - 1].name)


def all_captions() -> list[str]:
    """Every caption of an artist or a photo."""
    return [
        caption(thing, look, template)
        for thing in range(len(THINGS))
        for look in range(NUM_LOOKS)
        for template in range(NUM_TEMPLATES)
    ]


def words() -> list[str]:
    """Every word of the captions, once, in alphabetical order."""
    return sorted({word for text in all_captions() for word in text.split()})
