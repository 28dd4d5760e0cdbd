"""The captions of the images."""

from benchmarks.gallery.names import ARTISTS, NUM_LOOKS, THINGS

# The first of each is used for all judged images, and for five eighths of the training samples.
PHOTO_CAPTIONS = (
    "a photo of a {thing}",
    "a picture of a {thing}",
    "a {thing}",
    "an image of a {thing}",
)
ARTIST_CAPTIONS = (
    "a {thing} in the style of {artist}",
    "a {thing} by {artist}",
    "a painting of a {thing} by {artist}",
    "a picture of a {thing} in the style of {artist}",
)
NUM_TEMPLATES = len(PHOTO_CAPTIONS)


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
