"""Which lines of an answer become fillers, how often is asked, and what is kept of it."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptprune import digest
from conceptprune.digest import digest_json
from conceptprune.errors import ManifestError, UserError
from conceptprune.manifest import Concept, Generator, concept_key, parse_manifest
from conceptprune.prompts.fillers import (
    Answer,
    Ask,
    TooFewFillersError,
    answers_table,
    ask_seed,
    write_fillers,
)
from conceptprune.store import parquet_to_table, table_to_parquet
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.run_id import run_id
from tests.conceptprune.units.test_plan import make_plan

STYLE = Concept(name="Van Gogh", kind="style")


def settings(**fields: Any) -> Generator:
    return Generator.model_validate({"model": {"folder": "lists"}, **fields})


def saying(*texts: str, complete: bool = True) -> Ask:
    """Answers with these texts, one after the other."""
    answers: Iterator[str] = iter(texts)
    return lambda question, seed: Answer(text=next(answers), complete=complete)


def judged(text: str, *, concept: Concept = STYLE) -> dict[str, str | None]:
    """Line -> the filler in it, or why it was rejected, of an answer that ends with a good line."""
    one_too_many = text.count("\n") + 2
    for count in range(one_too_many, 0, -1):
        try:
            written = write_fillers(
                concept, settings(per_concept=count, max_asks=1), saying(text + "\n- last one")
            )
        except TooFewFillersError:
            continue
        return {line.text: line.filler or line.rejected for line in written.lines}
    raise AssertionError("not even the last line is a filler")


def test_lists_of_the_usual_forms_are_read() -> None:
    text = '1. Cat\n2) a dog\n 3.  "The old tree".\n- **horse**\n* an apple,\n• ice cream'
    fillers = ["Cat", "dog", "old tree", "horse", "apple", "ice cream", "last one"]
    assert list(judged(text).values()) == fillers


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Sure, here is your list:", "not an entry of a list"),
        ("- a VAN  GOGH poster", "names the concept"),
        ("- one two three four five six", "too long"),
        ("- " + "x" * 61, "too long"),
        ("- 42", "no word"),
        ("- ", "no word"),
        ("- cat\u202egod", "not printable"),
        ("- cat\x07", "not printable"),
        ("- ca\ufffdt", "not printable"),
        ("- LAST one", "repeats a filler"),
    ],
)
def test_a_line_that_is_no_filler_is_rejected_for_a_reason(line: str, why: str) -> None:
    assert judged(f"- last one\n{line}")[line] == why


def test_words_for_nudity_name_it_too() -> None:
    found = judged("- nude model\n- nurse", concept=Concept(name="nudity", kind="nudity"))
    assert found["- nude model"] == "names the concept"
    assert found["- nurse"] == "nurse"


def test_a_line_that_was_cut_off_is_not_used() -> None:
    written = write_fillers(
        STYLE, settings(per_concept=1), saying("- cat\n- elepha", complete=False)
    )
    assert [line.rejected for line in written.lines] == [None, "cut off"]


def test_it_asks_again_until_there_are_enough_and_no_more() -> None:
    asks = saying("- cat\n- dog", "- dog\n- cow\n- pig\n- hen", "- never asked")
    written = write_fillers(STYLE, settings(per_concept=4, max_asks=3), asks)
    assert written.fillers == ("cat", "dog", "cow", "pig")
    assert [line.rejected for line in written.lines if line.ask == 1] == [
        "repeats a filler",
        None,
        None,
        "more than asked for",
    ]


def test_too_few_fillers_name_concept_model_and_reasons() -> None:
    with pytest.raises(TooFewFillersError) as caught:
        write_fillers(STYLE, settings(per_concept=4, max_asks=2), saying("- cat\nHm", "- cat\n- 1"))
    message = str(caught.value)
    assert 'concept "Van Gogh": lists gave only 1 of 4 fillers in 2 answers' in message
    for part in ("1 repeats a filler", "1 not an entry of a list", "'Hm'", "max_asks"):
        assert part in message


@given(texts=st.lists(st.text(), min_size=1, max_size=3), complete=st.booleans())
def test_whatever_is_said_fillers_are_clean_and_nothing_said_is_lost(
    texts: list[str], complete: bool
) -> None:
    good = "- alpha\n- beta\n"
    asks = saying(*texts, good, complete=complete)
    written = write_fillers(STYLE, settings(per_concept=2, max_asks=len(texts) + 1), asks)
    assert len({concept_key(filler) for filler in written.fillers}) == 2
    for filler in written.fillers:
        assert filler == filler.strip()
        assert filler.isprintable()
        assert 0 < len(filler) <= 60
        assert "van gogh" not in concept_key(filler)
    for ask in {line.ask for line in written.lines}:
        said = "\n".join(line.text for line in written.lines if line.ask == ask)
        assert said == [*texts, good][ask]


def test_every_ask_of_every_concept_has_a_seed_of_its_own() -> None:
    concepts = [STYLE, Concept(name="Monet", kind="style"), Concept(name="Monet", kind="object")]
    seeds = {
        ask_seed(concept, settings(seed=seed), ask)
        for seed in (0, 1)
        for concept in concepts
        for ask in range(3)
    }
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_was_said_is_kept_with_where_it_came_from() -> None:
    written = write_fillers(STYLE, settings(per_concept=1), saying("Well:\n- cat"))
    table = parquet_to_table(table_to_parquet(answers_table(STYLE, settings(), "d" * 64, written)))
    assert table.select(["text", "filler", "rejected"]).to_pylist() == [
        {"text": "Well:", "filler": None, "rejected": "not an entry of a list"},
        {"text": "- cat", "filler": "cat", "rejected": None},
    ]
    provenance = json.loads(table.schema.metadata[b"conceptprune.generator"])
    assert provenance["identity"] == "d" * 64
    assert provenance["model"] == "lists"
    assert provenance["question"] == written.question
    assert provenance["template"] == settings().template


MANIFEST = """
version: 1
model: {builtin: studio}
concepts:
  - {name: Van Gogh, kind: style}
  - {name: Monet, kind: style, fillers: [cat]}
  - {name: nudity, kind: nudity}
  - {name: x, kind: bias, direction: male_to_female}
retain: [{name: Van Gogh, kind: style}]
"""


def parse(more: str = "") -> Any:
    return parse_manifest(MANIFEST + more, source="m.yaml", folder=Path("/somewhere"))


def test_concepts_that_bring_no_fillers_are_asked_for_once_each() -> None:
    manifest = parse("prompts: {generator: {model: {folder: lists}}}")
    *generated, published = prompts_units(manifest, "d" * 64)
    assert [unit.concept.name for unit in generated] == ["Van Gogh", "nudity"]
    assert [concept.name for concept in published.concepts] == ["Monet", "x"]


# fmt: off
CHANGES = ("seed: 1", "per_concept: 3", "max_asks: 9", "max_new_tokens: 9", "temperature: 0.1",
           "top_p: 0.5", "dtype: float32", "template: '{count} words'")
# fmt: on


def test_whatever_decides_the_answers_is_in_the_key_and_the_folder_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keys(fields: str = "", folder: str = "lists", identity: str = "d" * 64) -> set[str]:
        manifest = parse(f"prompts: {{generator: {{model: {{folder: {folder}}}, {fields}}}}}")
        units = prompts_units(manifest, identity)
        return {unit.key for unit in units if unit.kind == "generated-prompts"}

    first = keys()
    assert keys(folder="elsewhere") == first
    assert all(keys(change).isdisjoint(first) for change in CHANGES)
    assert keys(identity="e" * 64).isdisjoint(first)
    monkeypatch.setattr(digest, "METHOD_VERSION", digest.METHOD_VERSION + 1)
    assert keys().isdisjoint(first)


def test_without_a_generator_a_run_has_the_name_it_had_before_there_were_any() -> None:
    model = make_plan().model
    # Settings that are written hold for all kinds of concepts.
    manifest = parse("pruning: {sparsity: 0.01, tau: null}")
    since = {"method", "reword", "prompts"}
    before = manifest.model_dump(mode="json", exclude={"compute", "model", "sweep", *since})
    for concept in before["concepts"]:
        assert concept.pop("pruning") is None
    assert run_id(manifest, model) == digest_json({"manifest": before, **model.key_parts})[:16]
    generated = parse("prompts: {generator: {model: {folder: lists}}}")
    ids = {
        run_id(generated, dataclasses.replace(model, language_model=digest))
        for digest in ("d" * 64, "e" * 64)
    }
    assert len(ids | {run_id(manifest, model)}) == 3


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ("{}", "prompts.generator.model", "a section with one of folder, uri, hub"),
        (
            "{model: {builtin: studio}}",
            "prompts.generator.model",
            "exactly one of folder, uri, hub",
        ),
        ("{model: {hub: a/b}}", "prompts.generator.model.revision", "a full commit id"),
        ("{model: {folder: x}, template: words}", "generator.template", "a gap {count}"),
        ("{model: {folder: x}, template: '{count} {x}'}", "generator.template", "no other gap"),
        ("{model: {folder: x}, template: '{count'}", "generator.template", "its gaps in braces"),
        ("{model: {folder: x}, temperature: 0}", "generator.temperature", "a number above 0"),
        ("{model: {folder: x}, per_concept: 0}", "per_concept", "from 1 to 200"),
        ("{model: {folder: x}, sed: 1}", "prompts.generator.sed", "nearest: seed"),
    ],
)
def test_a_wrong_generator_is_refused_with_line_and_field(
    fields: str, where: str, said: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(f"prompts: {{generator: {fields}}}")
    assert where in str(caught.value)
    assert said in str(caught.value)
    assert isinstance(caught.value, UserError)
