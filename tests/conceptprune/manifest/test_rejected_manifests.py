"""Every way a manifest can be wrong, and what its author is told."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptprune.errors import ManifestError, UserError
from conceptprune.manifest import load_manifest, parse_manifest

HEAD = "version: 1\nmodel: {builtin: studio}\n"
VAN_GOGH = "concepts: [{name: Van Gogh, kind: style}]\n"
GOOD = HEAD + VAN_GOGH


def rejection(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, source="m.yaml", folder=Path())
    return str(caught.value)


def concept(fields: str) -> str:
    """Return a manifest whose one concept, on line 4, has these fields beside a name."""
    return f"{HEAD}concepts:\n  - {{name: x, {fields}}}\n"


def section(line: str) -> str:
    """Return a good manifest with one more line, the fourth."""
    return GOOD + line


# The manifest, where its problem is, and a part of what is said about it.
BAD = [
    # Unknown keys and spellings.
    (section("prunning: {}"), "m.yaml:4: prunning", "nearest: pruning"),
    (section("collection: {sed: 1}"), "m.yaml:4: collection.sed", "nearest: seed"),
    (concept("kind: stile"), "m.yaml:4: concepts[0].kind", "nearest: style"),
    (concept("kind: memorized"), "concepts[0].kind", "nearest: memorised"),
    (section("collection: {scheduler: ddim}"), ":4: collection.sch", "nearest: DDIMScheduler"),
    (
        section("collection: {guidance_halves: bth}"),
        ":4: collection.guidance_halves",
        "nearest: both",
    ),
    (
        section("collection: {guidance_branches: both, guidance_halves: both}"),
        ":4: collection.guidance_halves",
        "an unknown key",
    ),
    (section("collection: {dtype: fp16}"), "collection.dtype", "nearest: float16"),
    (section("pruning: {site: ffn_inn}"), "pruning.site", "ffn_in, "),
    (section("pruning: {site: 're:('}"), "pruning.site", "regular expression (this one: "),
    (section("pruning: {site: [ffn_in, ffn]}"), "pruning.site[1]", "ffn_in, "),
    (section("outputs: {fuse: Union}"), "outputs.fuse", "nearest: union"),
    (section("outputs: {fuse: sum}"), "outputs.fuse", "allowed: union, retain-shared, budget"),
    (section("outputs: {fuse: {how: bugdet}}"), "outputs.fuse.how", "nearest: budget"),
    (
        section("outputs: {fuse: {how: union, alpha: 1.0}}"),
        "outputs.fuse.alpha",
        "setting of retain-shared",
    ),
    (section("outputs: {fuse: {how: budget, fraction: 2}}"), "fuse.fraction", "at most 1"),
    (section("pruning: {selector: fai}"), "pruning.selector", "nearest: fia"),
    (section("pruning: {selector: fia, sparsity: 0.05}"), "pruning.sparsity", "fia has r1, r2"),
    (section("pruning: {r2: 0.1}"), "pruning.r2", "a setting of selector fia"),
    (concept("kind: style, pruning: {sparsty: 1}"), "concepts[0].pruning.sparsty", "sparsity"),
    (concept("kind: style, pruning: {site: ffn_in}"), "m.yaml:4: concepts[0].pruning.site", "tau"),
    (
        concept("kind: style, pruning: {sparsity: 0}"),
        "m.yaml:4: concepts[0].pruning.sparsity",
        "above 0 and at most 1",
    ),
    (
        concept("kind: style, pruning: {r2: 0.1}"),
        "m.yaml:4: concepts[0].pruning.r2",
        "a setting of selector fia; conceptprune has sparsity, threshold, min_per_row",
    ),
    (
        concept("kind: style, pruning: {sparsity: 0.1}") + "pruning: {selector: fia}",
        "m.yaml:4: concepts[0].pruning.sparsity",
        "a setting of selector conceptprune; fia has r1, r2",
    ),
    (
        concept("kind: style, pruning: {tau: 11}"),
        "m.yaml:4: concepts[0].pruning.tau",
        "at most collection.tau, which is 10",
    ),
    # What is kept is not pruned.
    (
        section("retain: [{name: y, kind: style, pruning: {tau: 2}}]"),
        "m.yaml:4: retain[0].pruning",
        "an unknown key",
    ),
    (section("pruning: {selector: fia, r1: 0}"), "pruning.r1", "a number above 0"),
    (section("sweep: {tau: [5, 11]}"), "sweep.tau[1]", "at most collection.tau, which is 10"),
    (section("sweep: {sparsity: [0.1, 0.1]}"), "sweep.sparsity[1]", "no value twice"),
    (section("sweep: {sparsity: 0.1}"), "sweep.sparsity", "a list of numbers above 0"),
    (section("sweep: {selector: [fai]}"), "sweep.selector[0]", "fia"),
    # Templates and captions.
    (concept("kind: style, template: {base: x, target: '{filler}'}"), "template.base", "a gap {f"),
    (concept("kind: style, template: {base: '{filler.x}', target: y}"), ".base", "no other gap"),
    (concept("kind: style, template: {base: '{filler!r}', target: y}"), ".base", "no other gap"),
    (concept("kind: style, template: {base: '{filler', target: y}"), ".base", "gaps in braces"),
    (concept("kind: custom, template: {}"), "concepts[0].template", "base"),
    (
        section("reword: {templates: {style: [{base: '{filler}', target: '{filler}'}]}}"),
        "reword.templates.style[0].target",
        "no artist is named",
    ),
    (
        section(
            "reword: {templates: {object: [{base: '{filler}', target: '{filler}'}, "
            "{base: '{filler}', target: '{filler}'}]}}"
        ),
        "reword.templates.object[1]",
        "no template twice",
    ),
    (concept("kind: memorised, captions: {fil: x}"), "].captions", "or {file: path}"),
    (concept("kind: memorised, captions: {file: no/such}"), "].captions", "no/such: [Errno 2]"),
    (concept("kind: memorised, captions: x"), "].captions", "a list of at least one memorised"),
    # Missing and misplaced.
    ("", "m.yaml:1", "found:   nothing"),
    ("[]", "m.yaml:1", "a section with version, model, method, reword, fillers"),
    (HEAD, "m.yaml:1: concepts", "a list of at least one {name, kind, ...}"),
    (HEAD + "concepts: []", "m.yaml:3: concepts", "a list of at least one entry"),
    (HEAD + "concepts: [{name: x}]", "concepts[0].kind", "style, nudity, object, bias"),
    (HEAD + "concepts: [x]", "m.yaml:3: concepts[0]", "a section with name, kind"),
    (section("collection:"), "m.yaml:4: collection", "a section with steps, tau"),
    (GOOD.replace("1", "2"), "m.yaml:1: version", "1, the only version"),
    (GOOD.replace("1", "true"), "m.yaml:1: version", "1, the only version"),
    # The model.
    ("model: {bultin: studio}\n" + VAN_GOGH, "m.yaml:1: model", "nearest: builtin"),
    ("model: {builtin: studio, folder: x}\n" + VAN_GOGH, ":1: model", "exactly one of builtin"),
    ("model: {builtin: sd15}\n" + VAN_GOGH, ":1: model.builtin", "allowed: studio"),
    ("model: {folder: ''}\n" + VAN_GOGH, ":1: model.folder", "text that is not empty"),
    ("model: {hub: a/b}\n" + VAN_GOGH, ":1: model.revision", "a full commit id"),
    ("model: {hub: a/b, revision: main}\n" + VAN_GOGH, ":1: model.revision", "a branch or tag"),
    ("model: {hub: ../.., revision: main}\n" + VAN_GOGH, ":1: model.hub", "organisation/name"),
    ("model: {builtin: studio, x: 1}\n" + VAN_GOGH, ":1: model.x", "an unknown key"),
    # Names.
    (HEAD + "concepts: [{name: '', kind: style}]", "concepts[0].name", "not empty"),
    (HEAD + "concepts: [{name: ' a', kind: style}]", "concepts[0].name", "spaces at its ends"),
    (HEAD + 'concepts: [{name: "a\\nb", kind: style}]', "concepts[0].name", "U+000A"),
    (HEAD + 'concepts: [{name: "a\\u202eb", kind: style}]', "concepts[0].name", "U+202E"),
    (HEAD + 'concepts: [{name: "\\u200b", kind: style}]', "concepts[0].name", "not empty"),
    (HEAD + f"concepts: [{{name: {'a' * 201}, kind: style}}]", "concepts[0].name", "1 to 200"),
    # Prompts, fillers and captions against the kind.
    (concept("kind: custom"), "concepts[0].prompts", "kind custom has no templates"),
    (concept("kind: custom, prompts: []"), ":4: concepts[0].prompts", "at least one entry"),
    (concept("kind: style, prompts: [{base: b}]"), "prompts[0].target", "found:   nothing"),
    (concept("kind: style, prompts: [{base: b, target: ' '}]"), "prompts[0].target", "spaces"),
    (
        concept("kind: style, prompts: [{base: b, target: ''}]"),
        "prompts[0].target",
        "not empty",
    ),
    (concept("kind: style, prompts: [{base: '', target: t}]"), "prompts[0].base", "not empty"),
    (
        concept("kind: custom, prompts: [{base: b, target: t}, {base: b, target: t}]"),
        "concepts[0].prompts[1]",
        "repeats entry 0",
    ),
    (concept("kind: style, fillers: []"), "concepts[0].fillers", "at least one entry"),
    (concept("kind: style, fillers: [cat, '']"), "concepts[0].fillers[1]", "not empty"),
    (concept("kind: style, fillers: [cat, dog, CAT]"), "fillers[2]", "repeats entry 0"),
    (concept("kind: style, fillers: [{base: a, target: b}]"), "fillers[0]", "one word"),
    (concept("kind: style, fillers: [{base: a}]"), "fillers[0].target", "found:   nothing"),
    (concept("kind: bias, fillers: [man]"), "fillers[0]", "{base: woman, target: man}"),
    (concept("kind: bias"), "concepts[0].direction", "male_to_female, female_to_male"),
    (concept("kind: bias, direction: male"), "direction", "nearest: male_to_female"),
    (
        concept("kind: bias, direction: male_to_female, fillers: [{base: a, target: b}]"),
        "concepts[0].direction",
        "own pairs already say",
    ),
    (concept("kind: style, direction: male_to_female"), "direction", "takes only fillers, p"),
    (concept("kind: memorised"), "concepts[0].captions", "at least one memorised caption"),
    (concept("kind: memorised, captions: [a, A]"), "captions[1]", "repeats entry 0"),
    (concept("kind: style, captions: [a]"), "concepts[0].captions", "kind style takes only"),
    (concept("kind: custom, fillers: [a]"), "concepts[0].fillers", "kind custom takes only"),
    (
        concept("kind: style, fillers: [a], prompts: [{base: b, target: t}]"),
        "concepts[0].fillers",
        "prompts are written out",
    ),
    (section("fillers: {style: [cat, Cat]}"), ":4: fillers.style[1]", "repeats entry 0"),
    (section("fillers: {custom: [cat]}"), ":4: fillers.custom", "style, nudity, object"),
    # Numbers.
    (section("pruning: {sparsity: 0}"), ":4: pruning.sparsity", "above 0 and at most 1"),
    (section("pruning: {sparsity: 1.01}"), ":4: pruning.sparsity", "above 0 and at most 1"),
    (section("pruning: {sparsity: .nan}"), ":4: pruning.sparsity", "neither text nor"),
    (section("pruning: {sparsity: 1e999}"), ":4: pruning.sparsity", "above 0 and at most 1"),
    (section("pruning: {threshold: 1}"), ":4: pruning.threshold", "below 1"),
    (section("pruning: {tau: 11}"), ":4: pruning.tau", "at most collection.tau, which is 10"),
    (section("collection: {tau: 0}"), ":4: collection.tau", "from 1 to collection.steps"),
    (section("collection: {tau: 51}"), ":4: collection.tau", "which is 50"),
    (section("collection: {steps: 5}"), ":4: collection.tau", "nothing (default: 10)"),
    (section("collection: {window: 11}"), ":4: collection.window", "which is 10"),
    (section("collection: {seed: -1}"), ":4: collection.seed", "from 0 to 2**63 - 1"),
    (section(f"collection: {{seed: {2**63}}}"), ":4: collection.seed", "from 0 to 2**63 - 1"),
    (section(f"collection: {{seed: {'9' * 5000}}}"), ":4: collection.seed", "99..."),
    (section("collection: {guidance: 0.5}"), ":4: collection.guidance", "at least 1"),
    (section("collection: {steps: 8.0}"), ":4: collection.steps", "found:   8.0"),
    (section('collection: {steps: "8"}'), ":4: collection.steps", 'found:   "8"'),
    (section("compute: {actors: -1}"), ":4: compute.actors", "from 0 to 100000"),
    (section("outputs: {preview: {seeds: [1, 1]}}"), "outputs.preview.seeds[1]", "repeats"),
    # A retained base needs something retained; one name means one concept in both lists.
    (section("pruning: {base: plain+retained-max}"), ":4: pruning.base", "no retain: list"),
    (section("retain: [{name: van  GOGH, kind: style}]"), "retain[0]", "the same concept"),
    (
        section("retain: [{name: Monet, kind: style}, {name: monet, kind: style}]"),
        "retain[1].name",
        "retain[0]",
    ),
    # What YAML 1.1 reads otherwise than it looks.
    (HEAD + "concepts: [{name: no, kind: style}]", "concepts[0].name", 'in quotes: "no"'),
    (HEAD + "concepts: [{name: On, kind: style}]", "concepts[0].name", "YAML reads as true"),
    (HEAD + "concepts: [{name: 1984, kind: style}]", "concepts[0].name", 'quotes: "1984"'),
    (HEAD + "concepts: [{name: 2020-01-01, kind: style}]", "[0].name", 'quotes: "2020-01-01"'),
    (HEAD + "concepts: [{name: ~, kind: style}]", "concepts[0].name", "YAML reads as null"),
    (concept("kind: style, fillers: [yes]"), "concepts[0].fillers[0]", 'quotes: "yes"'),
    (section("collection: {seed: 010}"), ":4: collection.seed", "neither text nor a plain"),
    (section("collection: {seed: 1:30}"), ":4: collection.seed", "neither text nor a plain"),
    # YAML that is more than plain data.
    (GOOD + "version: 1", "m.yaml:4: version", "each key once (first on line 1)"),
    (HEAD + "concepts: &a []", "m.yaml:3", "no anchors"),
    (HEAD + "concepts: *a", "m.yaml:3", "no aliases"),
    (HEAD + "concepts: !!python/object:os.system []", "m.yaml:3", "no tags"),
    (HEAD + "concepts: !x []", "m.yaml:3", "no tags"),
    (GOOD + "---\n" + GOOD, "m.yaml:4", "one YAML document"),
    (GOOD + "a: " + "[" * 100_000, "m.yaml:4", "nested levels"),
    (GOOD + "on: 1", "m.yaml:4", "keys that are words"),
    (GOOD + "? [a]\n: 1", "m.yaml:4", "keys that are words"),
    (GOOD + "<<: {a: 1}", "m.yaml:4", "keys that are words"),
    (GOOD + "a: 'open", "m.yaml:4", "unexpected end of stream"),
    (GOOD + 'a: "\\UFFFFFFFF"', "m.yaml:4", "beyond Unicode"),
    (GOOD + "a: \x07", "m.yaml:4", "YAML text"),
]


@pytest.mark.parametrize(
    ("text", "where", "fragment"), BAD, ids=[f"{where}, {fragment}" for _, where, fragment in BAD]
)
def test_a_bad_manifest_is_rejected_with_its_line_its_field_and_what_is_allowed(
    text: str, where: str, fragment: str
) -> None:
    message = rejection(text)
    assert where in message
    assert fragment in message


def test_all_problems_are_listed_in_the_order_of_the_file() -> None:
    message = rejection(
        "version: 1\n"
        "model: {builtin: studio}\n"
        "concepts:\n"
        "  - {name: no, kind: stile}\n"
        "  - {name: Monet, kind: style, color: red}\n"
        "collection: {tau: 60, sed: 1}\n"
        "pruning: {sparsity: 2}\n"
    )
    assert message.startswith("m.yaml has 6 problems:\n")
    assert [line for line in message.splitlines() if line.startswith("m.yaml:")] == [
        "m.yaml:4: concepts[0].name",
        "m.yaml:4: concepts[0].kind",
        "m.yaml:5: concepts[1].color",
        "m.yaml:6: collection.tau",
        "m.yaml:6: collection.sed",
        "m.yaml:7: pruning.sparsity",
    ]


def test_every_duplicate_name_is_listed_whatever_its_case_spacing_and_width() -> None:
    names = ["Van Gogh", "van  gogh", "VAN GOGH", "Ｖan Gogh", "Van\u200b Gogh", "Monet"]
    entries = "".join(f"  - {{name: '{name}', kind: style}}\n" for name in names)
    message = rejection(HEAD + "concepts:\n" + entries)
    assert message.startswith("m.yaml has 4 problems:\n")
    assert message.count("concepts[0] has the same one") == 4


def test_a_message_cannot_drive_the_terminal() -> None:
    message = rejection(section('"\\e[2J": "\\e[2J"\ncollection: {dtype: "\\e[2J"}'))
    assert "\x1b" not in message
    assert "\\x1b[2J" in message


def test_a_bomb_of_aliases_is_rejected_at_its_first_anchor() -> None:
    layers = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcd"))
    assert "m.yaml:1\n" in rejection("a: &a [x]\n" + layers)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"version: \xff", "m.yaml:1: not UTF-8"),
        (b"#" * (4 * 1024 * 1024 + 1), "larger than"),
        (b"", "m.yaml:1"),
    ],
)
def test_a_file_that_is_no_manifest_is_a_user_error(
    tmp_path: Path, content: bytes, fragment: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=fragment):
        load_manifest(path)


def test_a_missing_file_or_a_folder_is_a_user_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_manifest(path)


SECTIONS = ["model", "collection", "pruning", "outputs", "compute", "fillers", None]
FULL = {
    "version": "1",
    "model": "{builtin: studio}",
    "concepts": "[{name: Van Gogh, kind: style}]",
    "fillers": "{}",
    "collection": "{}",
    "pruning": "{}",
    "outputs": "{}",
    "compute": "{}",
}
KEYS = st.from_regex(r"\Ax[a-z_]{0,12}\Z")


@given(key=KEYS, place=st.sampled_from(SECTIONS))
def test_an_unknown_key_anywhere_is_rejected_with_its_line(key: str, place: str | None) -> None:
    full = dict(FULL)
    if place is None:
        full[key] = "1"
    else:
        inside = full[place].strip("{}")
        full[place] = "{" + ", ".join(filter(None, [inside, f"{key}: 1"])) + "}"
    text = "".join(f"{name}: {value}\n" for name, value in full.items())
    line = list(full).index(place or key) + 1
    field = key if place is None else f"{place}.{key}"
    assert f"m.yaml:{line}: {field}\n    found:   an unknown key" in rejection(text)


@settings(max_examples=200)
@given(text=st.text() | st.text(alphabet=" -:[]{}&*!|>'\"#%@,?\n\tab1\\xU.e"))
def test_no_text_can_make_the_loader_fail_in_another_way(text: str) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(text, source="m.yaml", folder=Path())
