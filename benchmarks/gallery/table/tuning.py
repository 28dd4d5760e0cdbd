"""How UCE, RECE and SPEED were tuned on a denoiser: `python -m benchmarks.gallery.table.tuning`.

Each trial erases 72 of the hundred artists and preserves the other 28, who stand in for those of
the table. The best is the one with the highest mean of four shares: the erased not seen, the others
seen, things and photos. Trials go on from the best one so far, a few changes at a time; each is a
line of tuning.jsonl. The table's captions and seeds are others.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gallery import sampling
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.names import THINGS
from benchmarks.gallery.table.measure import counts, images_of
from benchmarks.gallery.table.questions import ERASED_LOOKS, Question, Round
from benchmarks.gallery.table.rows import ALL_TEXTS, TUNED, Gallery
from benchmarks.gallery.table.texts import Baseline, Looks, Texts, Wording
from conceptprune.baselines.rece import ReceSettings
from conceptprune.baselines.speed import MANY
from conceptprune.baselines.uce import UceSettings
from conceptprune.studio.training.captions import NUM_TEMPLATES

RESULTS = Path(__file__).with_name("tuning.jsonl")
TO_ERASE, TO_KEEP = ERASED_LOOKS[:72], ERASED_LOOKS[72:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to run a method, which its settings' class names."""

    settings: Baseline
    wording: Wording = ALL_TEXTS

    @property
    def facts(self) -> dict[str, Any]:
        """As in tuning.jsonl."""
        return {
            "method": type(self.settings).__name__.removesuffix("Settings").upper(),
            "settings": asdict(self.settings),
            "wording": asdict(self.wording),
        }


Stage = Callable[[Trial], list[Trial]]
"""From the best trial so far to the next ones."""


def changed(trial: Trial, **changes: Any) -> Trial:
    """A trial with other settings."""
    return replace(trial, settings=replace(trial.settings, **changes))


def other_names(best: Trial) -> list[Trial]:
    """Names without UCE's phrases."""
    return [replace(best, wording=replace(best.wording, phrases=False))]


def other_guides(best: Trial) -> list[Trial]:
    """Other texts in the erased names' place."""
    return [
        replace(best, wording=replace(best.wording, guide=guide))
        for guide in ("art", "photo", "a photo")
    ]


def of_again(best: Trial, **changes: Any) -> Trial:
    """RECE with other settings of its second erasure."""
    assert isinstance(best.settings, ReceSettings)
    return changed(best, again=replace(best.settings.again, **changes))


def uce_stages() -> tuple[Trial, Sequence[Stage]]:
    return Trial(settings=UceSettings(tokens="rest", preserve_scale=10)), (
        lambda best: [
            changed(best, tokens=tokens, preserve_scale=scale)
            for tokens in ("last", "rest", "all")
            for scale in (0.1, 1.0, 10.0)
        ],
        lambda best: [changed(best, lamb=lamb) for lamb in (0.005, 0.05, 5.0)],
        other_names,
        other_guides,
        lambda best: [
            changed(best, tokens=tokens, preserve_scale=scale)
            for tokens in ("last", "rest", "all")
            for scale in (1.0, 3.0, 10.0, 30.0, 100.0)
        ],
    )


def rece_stages(uce: Trial) -> tuple[Trial, Sequence[Stage]]:
    of_the_unet, _ = TUNED["unet"]["RECE"]
    start = Trial(settings=of_the_unet, wording=uce.wording)
    return changed(start, first=uce.settings), (
        lambda best: [
            of_again(best, tokens=tokens, preserve_scale=scale)
            for tokens in ("rest", "all")
            for scale in (1.0, 10.0, 100.0)
        ],
        lambda best: [changed(best, regularisation=value) for value in (1e-3, 1e-1, 10.0)],
        lambda best: [of_again(best, lamb=lamb) for lamb in (0.5, 5.0)],
    )


def speed_stages() -> tuple[Trial, Sequence[Stage]]:
    return Trial(settings=MANY, wording=replace(ALL_TEXTS, guide="photo")), (
        lambda best: [changed(best, threshold=value) for value in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
        lambda best: [changed(best, retain_scale=value) for value in (0.01, 0.05, 0.2, 1.0, 10.0)],
        other_names,
        other_guides,
        lambda best: [changed(best, filtered=not best.settings.filtered)],
        lambda best: [changed(best, threshold=value) for value in (1e-2, 1e-1, 1.0, 10.0)],
    )


def questions() -> Round:
    """What every trial is asked: each artist once, each photo once."""

    def asked(looks: Looks) -> tuple[Question, ...]:
        return tuple(
            Question((5 * look + 3) % len(THINGS), look, look % NUM_TEMPLATES, 700_000 + look)
            for look in looks
        )

    photos = tuple(
        Question(thing, 0, thing % NUM_TEMPLATES, 710_000 + thing) for thing in range(len(THINGS))
    )
    return Round(erased=asked(TO_ERASE), kept=asked(TO_KEEP), photos=photos)


def score(found: Mapping[str, Sequence[int]]) -> float:
    """The mean of four shares, of hits and images as in tuning.jsonl."""
    share = {name: hits / images for name, (hits, images) in found.items()}
    return (1 - share["erased"] + share["kept"] + share["thing"] + share["photo"]) / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuner:
    """Measures trials on one denoiser."""

    kind: str
    gallery: Gallery
    texts: Texts
    judge: Judge

    def measured(self, trial: Trial) -> float:
        """A trial's score, from its line if it has one; otherwise writes it."""
        facts = json.loads(json.dumps({"kind": self.kind, **trial.facts}))
        for line in on_record():
            if facts.items() <= line.items():
                return score(line["counts"])
        asked = questions()
        self.gallery.put({})
        weights = self.texts.baseline(TO_ERASE, trial.settings, trial.wording)
        self.gallery.put(weights)
        images = images_of(self.gallery.pipeline, [*asked.erased, *asked.kept, *asked.photos])
        found = counts(self.judge, asked, images)
        line = {**facts, "counts": found, "score": round(score(found), 4)}
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return score(found)

    def best(self, start: Trial, stages: Sequence[Stage]) -> Trial:
        """The best of all trials; the first of several that are as good."""
        found = {start: self.measured(start)}
        for stage in stages:
            for trial in stage(max(found, key=lambda one: found[one])):
                if trial not in found:
                    found[trial] = self.measured(trial)
        return max(found, key=lambda one: found[one])


def on_record() -> list[dict[str, Any]]:
    """The lines of tuning.jsonl."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def best_on_record(kind: str, method: str) -> dict[str, Any]:
    """The line of a method's best trial; the first of several that are as good."""
    own = [line for line in on_record() if (line["kind"], line["method"]) == (kind, method)]
    return max(own, key=lambda line: score(line["counts"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="transformer")
    kind = parser.parse_args().kind
    torch.set_num_threads(1)
    gallery = Gallery(sampling.load(WEIGHTS.parent.parent / kind), Path())
    tuner = Tuner(
        kind=kind,
        gallery=gallery,
        texts=Texts(gallery.model, kept=TO_KEEP),
        judge=Judge.load(),
    )
    uce = tuner.best(*uce_stages())
    tuner.best(*rece_stages(uce))
    tuner.best(*speed_stages())
    for method in ("UCE", "RECE", "SPEED"):
        print(best_on_record(kind, method))


if __name__ == "__main__":
    main()
