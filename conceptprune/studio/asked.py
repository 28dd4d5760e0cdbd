"""Parse which thing and look a prompt asks the studio model for."""

from dataclasses import dataclass

from conceptprune.studio.names import ARTISTS, PHOTO, THINGS


@dataclass(frozen=True, slots=True)
class Asked:
    """The thing and the look a prompt names; None for a thing the studio does not know."""

    thing: str | None
    look: str


def asked(prompt: str) -> Asked:
    """Read a prompt: the first known thing, and the artist's look or a photo."""
    words = prompt.split()
    thing = next((word for word in words if word in THINGS), None)
    look = next((artist.look for artist in ARTISTS if artist.name in prompt), PHOTO)
    return Asked(thing, look)
