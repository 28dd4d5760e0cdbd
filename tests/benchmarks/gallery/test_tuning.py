"""How the baselines were tuned: on whom, from which trial to which, and that the table has it."""

import json
from dataclasses import asdict, replace

import pytest

from benchmarks.gallery.table import tuning
from benchmarks.gallery.table.questions import ERASED_LOOKS, FIRST_SEED, KEPT_LOOKS
from benchmarks.gallery.table.rows import TUNED
from benchmarks.gallery.table.texts import Wording
from benchmarks.gallery.table.tuning import Trial, Tuner, changed
from conceptprune.baselines.uce import UceSettings


def test_trials_know_no_kept_artist_of_the_table_and_ask_with_other_seeds():
    asked = tuning.questions()
    everybody = [*asked.erased, *asked.kept]
    assert {question.look for question in everybody} == set(ERASED_LOOKS)
    assert not {question.look for question in everybody} & set(KEPT_LOOKS)
    assert not set(tuning.TO_ERASE) & set(tuning.TO_KEEP)
    seeds = [question.seed for question in (*everybody, *asked.photos)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < FIRST_SEED


def test_a_trial_s_score_is_the_mean_of_what_is_gone_and_what_is_left():
    found = {"erased": (18, 72), "kept": (28, 28), "thing": (50, 100), "photo": (16, 16)}
    assert tuning.score(found) == pytest.approx((0.75 + 1 + 0.5 + 1) / 4)


@pytest.mark.parametrize("method", ["UCE", "RECE", "SPEED"])
def test_the_transformer_s_tuned_row_has_the_settings_of_the_best_trial(method):
    settings, wording = TUNED["transformer"][method]
    best = tuning.best_on_record("transformer", method)
    assert (asdict(settings), asdict(wording)) == (best["settings"], best["wording"])


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Puts trials and their scores on record; a tuner without a model cannot measure others."""
    monkeypatch.setattr(tuning, "RESULTS", tmp_path / "tuning.jsonl")

    def write(scores):
        lines = []
        for trial, hits in scores.items():
            of_four = {"erased": (4 - hits, 4), "kept": (4, 4), "thing": (4, 4), "photo": (4, 4)}
            lines.append({"kind": "unet", **trial.facts, "counts": of_four})
        tuning.RESULTS.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return Tuner(kind="unet", gallery=None, texts=None, judge=None)

    return write


def test_each_stage_goes_on_from_the_best_trial_so_far(scored):
    start = Trial(settings=UceSettings())
    weak, strong = changed(start, lamb=5.0), changed(start, lamb=0.05)
    named = replace(strong, wording=Wording())
    tuner = scored({start: 1, weak: 0, strong: 2, named: 3})
    stages = (lambda _: [weak, strong], lambda best: [replace(best, wording=Wording())])
    assert tuner.best(start, stages) == named


def test_of_trials_as_good_as_each_other_the_first_is_taken(scored):
    start = Trial(settings=UceSettings())
    other = changed(start, lamb=5.0)
    tuner = scored({start: 2, other: 2})
    assert tuner.best(start, [lambda _: [other]]) == start
    assert tuning.best_on_record("unet", "UCE")["settings"] == asdict(start.settings)
