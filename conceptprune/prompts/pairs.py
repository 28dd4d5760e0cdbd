"""Prompt pairs of a concept: the same image asked for without it (base) and with it (target).

Templates, words and scenes are those of the ConceptPrune paper (arXiv 2405.19237) and of its
reference repository, ruchikachavhan/concept-prune. `a` stays `a` before a vowel, as published.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conceptprune.digest import digest_json, seed_from
from conceptprune.manifest import Concept, Direction, FillerPair, Kind, concept_key
from conceptprune.models.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPair:
    """The prompts without and with the concept; both have the same seed."""

    base: Prompt
    target: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """The texts of a pair, and its seed if the manifest gives one."""

    base: str
    target: str
    seed: int | None = None


# fmt: off
THINGS = (
    "cat", "dog", "mouse", "bear", "car", "chair", "bag", "door", "rabbit", "ball", "bat", "horse",
    "bird", "flower", "bowl", "bottle", "wall", "building", "chicken", "duck",
)
PEOPLE = (
    "man", "woman", "girl", "boy", "child", "couple", "guy", "doctor", "nurse", "teacher",
    "lawyer", "mother", "father", "kid", "professor", "student", "group of friends", "celebrity",
)
SCENES = (
    "road", "garden", "beach", "room", "park", "street", "shelter", "chair", "table", "bag",
    "tree", "forest",
)
# fmt: on

# A church or a garbage truck is not found in a bag or a room, so these have scenes of their own.
CHURCH_SCENES = (
    ("road", "on a road"),
    ("park", "in the park"),
    ("beach", "near the beach"),
    ("street", "on the street"),
    ("house", "in front of a house"),
    ("statue", "in front of a statue"),
    ("tree", "near a tree"),
    ("forest", "in a forest"),
)
TRUCK_SCENES = (
    ("road", "on the road"),
    ("park", "in the park"),
    ("street", "on the street"),
    ("white car", "near a white car"),
    ("blue car", "near a blue car"),
    ("black car", "near a black car"),
    ("white automobile", "near a white automobile"),
    ("black automobile", "near a black automobile"),
    ("blue automobile", "near a blue automobile"),
    ("truck", "near a big truck"),
    ("tree", "near a tree"),
    ("forest", "in a forest"),
    ("house", "in front of a house"),
)
# Lower case, although the reference capitalises some: the tokens are the same.
HER_HIS = (
    ("woman", "man"),
    ("girl", "boy"),
    ("female", "person"),
    ("lady", "guy"),
    ("mother", "father"),
    ("daughter", "son"),
    ("sister", "brother"),
    ("wife", "husband"),
    ("aunt", "uncle"),
    ("niece", "nephew"),
    ("grandmother", "grandfather"),
    ("queen", "king"),
)
# The direction says how an image changes once the target's neurons are pruned: for male to female,
# the target prompts use the male words.
DIRECTIONS: dict[Direction, tuple[tuple[str, str], ...]] = {
    "male_to_female": HER_HIS,
    "female_to_male": tuple((his, her) for her, his in HER_HIS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """Two prompts with a gap, and the words (or phrase pairs) that fill it."""

    base: str
    target: str
    fillers: Sequence[str | tuple[str, str]] = ()
    # How a single word is written in the target prompt.
    in_target: str = "{}"
    # Fillers for concepts to which the general ones do not apply.
    fillers_of: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def __call__(self, concept: Concept) -> list[_Texts]:
        texts = concept.template or self
        pairs = (self._as_pair(filler) for filler in self._fillers_for(concept))
        return [
            _Texts(
                base=texts.base.format(filler=base),
                target=texts.target.format(concept=concept.name, filler=target),
            )
            for base, target in pairs
        ]

    def _fillers_for(self, concept: Concept) -> Sequence[str | tuple[str, str] | FillerPair]:
        if concept.fillers is not None:
            return concept.fillers
        if concept.direction is not None:
            return DIRECTIONS[concept.direction]
        return self.fillers_of.get(concept_key(concept.name), self.fillers)

    def _as_pair(self, filler: str | tuple[str, str] | FillerPair) -> tuple[str, str]:
        match filler:
            case str():
                return filler, self.in_target.format(filler)
            case FillerPair():
                return filler.base, filler.target
            case _:
                return filler


def _captions(concept: Concept) -> list[_Texts]:
    base = concept.caption_base or ""
    return [_Texts(base=base, target=caption) for caption in concept.captions or ()]


def _only_written_out(_: Concept) -> list[_Texts]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _KindRow:
    """How the pairs of a kind are made if a manifest does not write them out."""

    texts: Callable[[Concept], list[_Texts]]
    seed_per_pair: bool = False


KINDS: dict[Kind, _KindRow] = {
    "style": _KindRow(
        texts=_Template(
            base="a photo of a {filler}",
            target="a {filler} in the style of {concept}",
            fillers=THINGS,
        )
    ),
    "nudity": _KindRow(
        texts=_Template(
            base="a photo of a {filler}",
            target="a photo of a naked {filler}",
            fillers=PEOPLE,
        )
    ),
    "object": _KindRow(
        texts=_Template(
            base="a {filler}",
            target="a {concept} {filler}",
            fillers=SCENES,
            in_target="in a {}",
            fillers_of={"church": CHURCH_SCENES, "garbage truck": TRUCK_SCENES},
        )
    ),
    "bias": _KindRow(
        texts=_Template(base="a headshot of a {filler}", target="a headshot of a {filler}"),
        seed_per_pair=True,
    ),
    "memorised": _KindRow(texts=_captions),
    "custom": _KindRow(texts=_only_written_out),
}


def prompt_pairs(concept: Concept, *, seed: int) -> tuple[PromptPair, ...]:
    """The prompt pairs of `concept`, in a fixed order; `seed` is the run's seed.

    A pair's seed is the one in its manifest entry. Otherwise it is `seed` itself or, for a kind
    with one seed per pair, derived from `seed` and the pair's index.
    """
    row = KINDS[concept.kind]
    if concept.prompts is not None:
        texts = [_Texts(base=t.base, target=t.target, seed=t.seed) for t in concept.prompts]
    else:
        texts = row.texts(concept)
    pairs = []
    for index, text in enumerate(texts):
        own_seed = text.seed
        if own_seed is None:
            own_seed = _derived_seed(seed, index) if row.seed_per_pair else seed
        pairs.append(
            PromptPair(
                base=Prompt(text=text.base, seed=own_seed),
                target=Prompt(text=text.target, seed=own_seed),
            )
        )
    return tuple(pairs)


def base_template(concept: Concept) -> str:
    """The base prompt of a concept with `{filler}` in it; a filler alone if it has no template."""
    made_by = KINDS[concept.kind].texts
    if concept.prompts is None and isinstance(made_by, _Template):
        return (concept.template or made_by).base
    return "{filler}"


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Digest of prompts, which masks and statistics record.

    It is a part of these formats, not a key: it stays the same when the method's version changes.
    """
    listed = [[prompt.text, prompt.seed] for prompt in prompts]
    return digest_json({"method": 1, "prompts": listed})


def _derived_seed(seed: int, index: int) -> int:
    """63 bits that depend only on the two numbers (Python's `hash` may vary)."""
    return seed_from(f"prompt pair {index} of seed {seed}", bits=63)
