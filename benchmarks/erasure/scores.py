"""What the judge sees in the studio model's images, with and without masks, as rates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from benchmarks.erasure.masks import artist_prompt, photo_prompt
from conceptprune.evaluation.bootstrap import wilson
from conceptprune.masks.mask import PruningMask
from conceptprune.models.generate import Images, generate
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio.asked import asked
from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS, LOOKS, THINGS

BATCH_SIZE = 24

Change = PruningMask | Mapping[str, Tensor]
"""What is done to the denoiser: a mask, or edited tensors by parameter name."""


@contextmanager
def applied(denoiser: nn.Module, change: Change | None) -> Iterator[None]:
    """Apply a change to the denoiser, and undo it at the end; None changes nothing."""
    if change is None:
        yield
    elif isinstance(change, PruningMask):
        change.apply(denoiser)
        try:
            yield
        finally:
            change.remove(denoiser)
    else:
        state = denoiser.state_dict()
        before = {name: state[name].clone() for name in change}
        denoiser.load_state_dict(dict(change), strict=False)
        try:
            yield
        finally:
            denoiser.load_state_dict(before, strict=False)


@dataclass(frozen=True, slots=True)
class Rate:
    """Hits among images."""

    hits: int
    total: int

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.hits + other.hits, self.total + other.total)

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        if not self.total:
            return (float("nan"), float("nan"))
        return wilson(self.hits, self.total)


@dataclass(slots=True)
class Score:
    """Rates of one or more evaluations, which can be added up."""

    rates: dict[str, Rate] = field(default_factory=dict)
    lost_to: dict[str, int] = field(default_factory=dict)
    photo_change: list[float] = field(default_factory=list)

    def add(self, other: "Score") -> None:
        for name, rate in other.rates.items():
            self.rates[name] = self.rates.get(name, Rate(0, 0)) + rate
        for look, count in other.lost_to.items():
            self.lost_to[look] = self.lost_to.get(look, 0) + count
        self.photo_change += other.photo_change


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """The images asked for when some artists are erased."""

    erased: tuple[Prompt, ...]
    others: tuple[Prompt, ...]
    photos: tuple[Prompt, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (*self.erased, *self.others, *self.photos)


def exam(artists: Sequence[str], seeds: Sequence[int], *, things_per_other: int) -> Exam:
    """All things in the erased artists' styles and as photos (first seed), and some in each other
    style."""
    others = [artist.name for artist in ARTISTS if artist.name not in artists]
    chosen = [
        (THINGS[(7 * index + step) % len(THINGS)], other)
        for index, other in enumerate(others)
        for step in range(things_per_other)
    ]

    def generated(texts: Iterable[str], seeds: Sequence[int] = seeds) -> tuple[Prompt, ...]:
        # Every image has its own noise, whatever else is asked for.
        return tuple(
            Prompt(text=text, seed=1000 * seed + THINGS.index(_thing(text)))
            for text in texts
            for seed in seeds
        )

    return Exam(
        erased=generated(artist_prompt(thing, artist) for artist in artists for thing in THINGS),
        others=generated(artist_prompt(thing, other) for thing, other in chosen),
        photos=generated((photo_prompt(thing) for thing in THINGS), seeds[:1]),
    )


def _thing(text: str) -> str:
    thing = asked(text).thing
    if thing is None:
        raise ValueError(f"no known thing in {text!r}")
    return thing


class Examiner:
    """Generates and judges; images of the untouched model are generated once."""

    def __init__(self, model: StableDiffusion, *, steps: int, guidance: float) -> None:
        self.model = model
        self.judge = Judge.load()
        self.steps = steps
        self.guidance = guidance
        self._untouched: dict[Prompt, Images] = {}

    def score(self, questions: Exam, mask: PruningMask | None) -> Score:
        """Rates with the mask applied (None: the untouched model)."""
        return self.judged(questions, self.images(questions.prompts, mask))

    def images(self, prompts: Sequence[Prompt], change: Change | None) -> Images:
        """Images of the changed model (None: the untouched one)."""
        if change is None:
            return self.untouched(prompts)
        with applied(self.model.denoiser, change):
            return self._generate(prompts)

    def judged(self, questions: Exam, images: Images) -> Score:
        """Rates of the images of an exam's prompts, in their order."""
        verdicts = self.judge.verdicts(images)
        seen = [
            (THINGS[thing], LOOKS[artist])
            for thing, artist in zip(verdicts.thing, verdicts.artist, strict=True)
        ]
        score = Score()
        start = 0
        for group in ("erased", "others", "photos"):
            prompts = getattr(questions, group)
            wanted = [asked(prompt.text) for prompt in prompts]
            part = seen[start : start + len(prompts)]
            looks = [want.look == saw[1] for want, saw in zip(wanted, part, strict=True)]
            things = [want.thing == saw[0] for want, saw in zip(wanted, part, strict=True)]
            score.rates[f"{group} look"] = Rate(sum(looks), len(looks))
            score.rates[f"{group} thing"] = Rate(sum(things), len(things))
            if group == "erased":
                for _, look in part:
                    score.lost_to[look] = score.lost_to.get(look, 0) + 1
            start += len(prompts)
        if questions.photos:
            before = self.untouched(questions.photos).astype(np.int16)
            after = images[-len(questions.photos) :].astype(np.int16)
            score.photo_change = list(np.abs(after - before).mean((1, 2, 3)))
        return score

    def untouched(self, prompts: Sequence[Prompt]) -> Images:
        """Images of the untouched model."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._untouched]
        if missing:
            self._untouched |= zip(missing, self._generate(missing), strict=True)
        return np.stack([self._untouched[prompt] for prompt in prompts])

    def _generate(self, prompts: Sequence[Prompt]) -> Images:
        return generate(
            self.model, prompts, steps=self.steps, guidance=self.guidance, batch_size=BATCH_SIZE
        )
