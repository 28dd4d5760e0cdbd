"""The artists: their names, their looks, and who is never erased."""

import numpy as np
import pytest

from benchmarks.gallery.looks import MARK, PALETTE, draw
from benchmarks.gallery.names import ARTISTS, ERASED, KEPT, MARKS, NUM_LOOKS, PALETTES, THINGS
from benchmarks.gallery.photos import EMOJI
from benchmarks.gallery.renderings import labels, shrink
from conceptprune.studio.training.photos import CANVAS


@pytest.fixture(scope="module")
def disc():
    """A photo of a shaded disc, and its alpha: needs no font."""
    row, column = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS
    alpha = (np.hypot(row - 0.5, column - 0.5) < 0.38).astype(np.float32)
    body = np.stack([column, 0.3 * row, 0.2 + 0 * row], -1)
    return np.where(alpha[..., None] > 0, body, 0.9).astype(np.float32), alpha


def test_no_two_artists_share_a_name_or_a_look():
    assert len(ARTISTS) == 128
    assert len({a.name for a in ARTISTS}) == len({(a.mark, a.palette) for a in ARTISTS}) == 128
    assert all(len(a.name.split()) == 2 for a in ARTISTS)


def test_some_artists_share_a_first_or_a_last_word():
    first, last = ({a.name.split()[n] for a in ARTISTS} for n in (0, 1))
    assert (len(first), len(last)) == (112, 120)


def test_a_hundred_are_erased_and_every_kept_artist_has_erased_neighbours():
    assert (len(ERASED), len(KEPT)) == (100, 28)
    assert set(ERASED) | set(KEPT) == set(ARTISTS)
    for artist in KEPT:
        assert any(e.mark == artist.mark for e in ERASED)
        assert any(e.palette == artist.palette for e in ERASED)


def test_the_kept_cover_every_mark_and_every_palette():
    assert {a.mark for a in KEPT} == set(MARKS)
    assert {a.palette for a in KEPT} == set(PALETTES)


def test_marks_palettes_and_emoji_are_those_that_are_named():
    assert tuple(MARK) == MARKS
    assert tuple(PALETTE) == PALETTES
    assert tuple(EMOJI) == THINGS
    assert len(set(EMOJI.values())) == len(THINGS)


def test_every_two_looks_draw_the_same_photo_differently(disc):
    drawn = np.stack([shrink(draw(look, *disc)) for look in range(NUM_LOOKS)]).astype(np.int16)
    assert drawn.shape == (NUM_LOOKS, 64, 64, 3)
    for look in range(NUM_LOOKS):
        apart = np.abs(drawn - drawn[look]).mean((1, 2, 3))
        apart[look] = np.inf
        assert apart.min() > 4, (look, int(apart.argmin()))


def test_a_look_does_not_change_the_photo_it_is_given(disc):
    photo, alpha = disc[0].copy(), disc[1].copy()
    for look in range(NUM_LOOKS):
        draw(look, photo, alpha)
    assert np.array_equal(photo, disc[0])
    assert np.array_equal(alpha, disc[1])


def test_a_set_has_every_thing_in_every_look():
    asked = list(labels(num_photos=3, num_each=2))
    assert len(set(asked)) == len(asked) == 16 * (3 + 128 * 2)
    assert {(thing, look) for thing, look, _ in asked} == {
        (thing, look) for thing in range(16) for look in range(NUM_LOOKS)
    }
