"""Which images a report shows, and what it counts of what was seen in them."""

import base64
import io

from PIL import Image

from conceptprune.evaluation.scorers.base import Domain, Metric
from pipelines.records.recognised import ScorerMetric, Seen, seen_in_preview_2
from pipelines.report.accuracy import Rate, judge_pairs
from pipelines.report.image_pairs import ImagePair, SeenImage, make_strip


def image_pair(
    prompt: str, seed: int = 0, *, side: int = 64, seen: tuple[Seen, ...] = ()
) -> ImagePair:
    sink = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(sink, format="png")
    image = SeenImage(png=sink.getvalue(), seen=seen)
    return ImagePair(prompt=prompt, seed=seed, role="own", before=image, after=image)


def test_small_images_are_embedded_as_they_are_and_large_ones_shrunk() -> None:
    small, large = image_pair("small"), image_pair("large", side=512)
    strip = make_strip([small, large], "own", limit=2)
    assert strip
    kept, shrunk = (column.before for column in strip.columns)
    assert kept
    assert shrunk
    assert small.before
    assert kept.src == f"data:image/png;base64,{base64.b64encode(small.before.png).decode()}"
    assert (kept.crisp, shrunk.crisp) == (True, False)
    mime, data = shrunk.src.split(",", 1)
    assert mime == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 256)


def test_a_strip_shows_different_prompts_before_more_seeds() -> None:
    image_pairs = [image_pair(f"prompt {index}", seed) for seed in (0, 1) for index in range(6)]
    strip = make_strip(image_pairs, "own", limit=3)
    assert strip
    assert [(column.prompt, column.seed) for column in strip.columns] == [
        ("prompt 0", 0),
        ("prompt 2", 0),
        ("prompt 4", 0),
    ]
    assert strip.total == 12
    more = make_strip(image_pairs, "own", limit=8)
    assert more
    assert {column.seed for column in more.columns} == {0, 1}
    assert make_strip(image_pairs, "photo", limit=3) is None


def test_of_an_erased_object_its_thing_is_wanted_low() -> None:
    seen = seen_by("judge", "object", 0.0, "dog"), seen_by("judge", "style", 1.0, "photo")
    accuracy = judge_pairs([image_pair("a cat in a garden", seen=seen)], kind="object")
    assert accuracy
    assert accuracy.erased.question.want == "low"
    assert accuracy.erased.after == Rate(hits=0, n=1)
    assert accuracy.things.after is None, "what is to go is not counted as what is to stay"


def seen_by(scorer: str, domain: Domain | None, value: float | None, seen: str) -> Seen:
    how = Metric(erased="lower", kept="higher", domain=domain, is_share=True)
    metric = f"{domain} accuracy" if domain else "nude"
    return Seen(by=ScorerMetric(scorer=scorer, metric=metric, how=how), value=value, seen=seen)


def test_of_two_scorers_the_first_stands_for_the_concept_and_both_are_told() -> None:
    images = [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    image_pairs = [
        image_pair(
            "a cat", seed, seen=(seen_by("a", "style", a, "x"), seen_by("b", "style", b, "y"))
        )
        for seed, (a, b) in enumerate(images)
    ]
    accuracy = judge_pairs(image_pairs, kind="style")
    assert accuracy
    assert accuracy.erased.after == Rate(hits=2, n=3)
    told = {measure.question.label: measure.after for measure in accuracy.detail}
    assert told == {
        "Erased artist recognised": Rate(hits=2, n=3),
        "Erased artist recognised, by b": Rate(hits=1, n=3),
    }


def test_a_concept_that_is_neither_style_nor_thing_is_told_by_its_scorer_s_own_share() -> None:
    accuracy = judge_pairs(
        [image_pair("a walk", seen=(seen_by("n", None, 1.0, ""),))], kind="nudity"
    )
    assert accuracy
    assert (accuracy.erased.question.label, accuracy.erased.question.want) == ("nude, by n", "low")
    assert accuracy.erased.after == Rate(hits=1, n=1)


def test_a_store_of_the_first_versions_has_what_the_judge_saw_in_its_previews() -> None:
    row = {"asked_thing": "cat", "asked_look": "photo", "seen_thing": "cat", "seen_look": "photo"}
    thing, style = seen_in_preview_2({**row, "prompt": "a photo of a cat"}, {"a photo of a cat"})
    assert (thing.value, thing.seen, style.value, style.seen) == (1.0, "cat", 1.0, "photo")
    # An artist whom the judge does not know reads as a photo, which says nothing of the artist.
    _, style = seen_in_preview_2({**row, "prompt": "a cat by nobody"}, {"a photo of a cat"})
    assert style.value is None
    unjudged = dict.fromkeys(row) | {"prompt": "a cat"}
    assert seen_in_preview_2(unjudged, ()) == ()


def test_what_a_scorer_cannot_say_is_not_counted() -> None:
    accuracy = judge_pairs(
        [image_pair("x", seen=(seen_by("a", "style", None, "ink"),))], kind="style"
    )
    assert accuracy is None
