"""The tune job: the least change of each concept after which a suite's scorer sees it no more.

It is a bisection over runs of the erase and the evaluation job in one store, and does nothing
itself: what a run has computed, none computes again.
"""

import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from conceptprune.digest import canonical_json, digest_bytes, digest_file
from conceptprune.errors import UserError
from conceptprune.evaluation.checkpoint import Resolved
from conceptprune.evaluation.plan import EvaluationPlan
from conceptprune.evaluation.suite import load_suite
from conceptprune.store import Store
from conceptprune.units.find import find_commit
from conceptprune.units.plan import Plan
from conceptprune.units.results import read_mask
from conceptprune.units.rewording import check_rewording
from conceptprune.units.run_id import run_id

from ..console import exits
from ..console.logs import LogFormat, identified, job_console, log_format, say, say_failure
from ..console.names import some
from ..scheduling.metrics import StoreMetrics
from .erase import run_job
from .evaluate import PreparedEvaluation, base_model, run_evaluation, tell_unpinned
from .judging import Judge, Measured, judge_of, judged_on
from .preparation import Prepared, prepare
from .run import Outcome, tell_outcome
from .search import Search
from .strengths import Subject, check_shares, read_strengths, scaled, subjects_of, with_strengths
from .tuned_manifest import Choosing, check_out, tuned_text
from .tuning import Step, Tuning, show

DOCUMENT, MANIFEST = "tuning.json", "tuned.yaml"
"""Files of the run that has the strengths that were found."""


def tune(
    manifest: Path,
    suite: Path,
    store: str,
    console: Console,
    asked_format: str | None = None,
    *,
    out: Path | None = None,
    gone: float = 0.05,
    hold: float = 0.95,
    values: str | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Find the strengths and print their table; `tell` also gets it as a document.

    A manifest with them is written to the store, and to `out`.

    Returns:
        0 if every concept is gone and what must stay holds, 1 if not, or if some unit failed; bad
        input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    check_shares(gone, hold)
    check_out(out, manifest)
    job = _prepared(manifest, suite, store, console, form, gone=gone, hold=hold, values=values)
    tuning = job.run()
    show(tuning, console)
    if tell is not None:
        tell(tuning.as_json())
    written = True
    if tuning.run is None:
        say(console, "nothing was found, so there is no tuned manifest")
    else:
        text = tuned_text(manifest, job.choosing, tuning.sparsities, tuning.reword)
        job.store.write_run_file(tuning.run, DOCUMENT, canonical_json(tuning.as_json()).encode())
        job.store.write_run_file(tuning.run, MANIFEST, text.encode())
        say(console, f"tuned manifest: runs/run={tuning.run}/{MANIFEST} in {store}")
        written = out is None or _written(out, text, store, console)
    return exits.of_job(not (tuning.good and written))


def _written(out: Path, text: str, store: str, console: Console) -> bool:
    """Write the manifest; if that fails after all, it is in the store and not lost."""
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        say_failure(console, f"--out {out}: cannot be written: {error.strerror}")
        return False
    say(
        console,
        f"and {out}; next: {shlex.join(['conceptprune', 'erase', f'{out}', '--store', store])}",
    )
    return True


def _prepared(
    manifest: Path,
    suite_path: Path,
    store: str,
    console: Console,
    form: LogFormat,
    *,
    gone: float,
    hold: float,
    values: str | None,
) -> "_Job":
    """Check everything, before any work.

    Raises:
        UserError: something is wrong or missing.
    """
    prepared = prepare(manifest)
    rewords = prepared.manifest.rewording is not None
    strengths = read_strengths(values, reworded=rewords)
    subjects, too_little = subjects_of(prepared, strengths, manifest)
    concepts = prepared.manifest.concepts
    names = tuple(concept.name for concept in concepts)
    suite, added = judged_on(load_suite(suite_path), concepts)
    base = base_model(suite)
    if base.model.identity != prepared.model.identity:
        raise UserError(
            f"{suite_path}: model: is not the model of {manifest}, which the masks are made for; "
            "name the same one in both"
        )
    facts = tuple(scorer.check() for scorer in suite.scorers)
    judge = judge_of(suite, facts, names, suite_path)
    # The others' numbers choose nothing, and cost images or cannot be had of one concept alone.
    asked = [
        (scorer, fact)
        for scorer, fact in zip(suite.scorers, facts, strict=True)
        if scorer.title in judge.scorers
    ]
    suite = suite.model_copy(update={"scorers": tuple(scorer for scorer, _ in asked)})
    tell_unpinned(console, suite)
    if added:
        say(console, f"{suite_path}: does not name {some(added)}: prompts of their kind are used")
    if too_little:
        say(
            console,
            "left out, as less than one weight per row of the narrowest layer: "
            + ", ".join(f"{value:g}" for value in too_little),
        )
    if not suite.groups.retained and not suite.groups.general:
        say(
            console,
            f"{suite_path}: nothing is retained or general: what erasing harms is not known",
        )
    opened = Store(store, StoreMetrics())
    opened.check()
    digest = digest_file(suite_path)
    return _Job(
        prepared=prepared,
        evaluation=PreparedEvaluation(
            suite=suite,
            base=base,
            facts=tuple(fact for _, fact in asked),
            checkpoints=(),
            own=True,
        ),
        judge=judge,
        store=opened,
        console=console,
        form=form,
        choosing=Choosing(suite=suite, sha256=digest, gone=gone),
        hold=hold,
        searches=tuple(Search.of(subject, gone) for subject in subjects),
    )


@dataclass(slots=True, kw_only=True)
class _Job:
    """A checked tune job."""

    prepared: Prepared
    evaluation: PreparedEvaluation
    judge: Judge
    store: Store
    console: Console
    form: LogFormat
    choosing: Choosing
    hold: float
    searches: tuple[Search, ...]
    steps: list[Step] = field(default_factory=list)

    def run(self) -> Tuning:
        """Search; the last run of the store then erases with the strengths that were found."""
        most = max(search.most for search in self.searches)
        chosen: dict[Subject, float] = {}
        run = None
        while any(search.open for search in self.searches):
            chosen = self._chosen()
            number = len(self.steps) + 1
            say(self.console, f"step {number} of at most {most}: {_shown(chosen)}")
            run = self._step(chosen)
            say(self.console, self._progress())
        found = self._chosen()
        if found and found != chosen:
            say(self.console, f"what was found: {_shown(found)}")
            run = self._erase(found)[0].run
        return self._tuning(run if found else None)

    def _progress(self) -> str:
        """What the last step brought, in one line."""
        if len(self.searches) == 1 and (seen := self.searches[0].latest):
            return f"seen in {seen.hits} of {seen.images} images"
        settled = sum(not search.open for search in self.searches)
        return f"settled: {settled} of {len(self.searches)} concepts"

    def _chosen(self) -> dict[Subject, float]:
        """By subject, the strength to measure now, or the one that was found."""
        return {
            search.subject: search.strength
            for search in self.searches
            if search.strength is not None
        }

    def _step(self, chosen: Mapping[Subject, float]) -> str:
        """Erase with these strengths, and measure; returns the run."""
        plan, erased = self._erase(chosen)
        made = {
            search.subject: edit
            for search in self.searches
            if search.subject in chosen and (edit := self._edit(plan, search.subject))
        }
        evaluation = self._evaluate(list(made.values())) if made else None
        scores = self._scores(evaluation[0], made) if evaluation else {}
        for search in self.searches:
            if search.subject in scores:
                search.tell(*scores[search.subject])
            elif search.subject in chosen:
                search.failed = True
        outcomes = [erased, *([evaluation[1]] if evaluation else [])]
        self.steps.append(
            Step(
                run=plan.run,
                evaluation=evaluation[0].run if evaluation else None,
                computed=sum(one.computed for one in outcomes),
                reused=sum(one.reused for one in outcomes),
                failed=any(one.failed for one in outcomes),
            )
        )
        return plan.run

    def _erase(self, chosen: Mapping[Subject, float]) -> tuple[Plan, Outcome]:
        prepared = with_strengths(self.prepared, chosen)
        with identified(run=run_id(prepared.manifest, prepared.model)):
            result = run_job(prepared, self.store.uri, self.console, self.form, command="tune")
            title = f"run {result.plan.run}"
            tell_outcome(self.console, title, result.outcome, result.seconds, self.store.uri)
        return result.plan, result.outcome

    def _edit(self, plan: Plan, subject: Subject) -> Resolved | None:
        """A subject's mask or rewording, as a checkpoint; None if it was not made."""
        if subject.reworded:
            return self._rewording(plan, subject)
        (name,) = subject.names
        (key,) = (each.mask.key for each in plan.concepts if each.concept.name == name)
        commit = find_commit(self.store, "mask", key)
        if commit is None:
            return None
        mask = read_mask(self.store, key, of=name)
        return Resolved(
            label=name,
            kind="mask",
            digest=mask.digest,
            erased=mask.concepts,
            ref=commit.objects["mask"],
        )

    def _rewording(self, plan: Plan, subject: Subject) -> Resolved | None:
        edit = plan.combined
        commit = find_commit(self.store, edit.kind, edit.key) if edit else None
        if commit is None or edit is None or edit.erased != subject.names:
            return None
        data = self.store.load(commit, "delta")
        header = check_rewording(self.store, commit, data, of=subject.names)
        return Resolved(
            label=subject.title,
            kind="delta",
            digest=digest_bytes(data),
            erased=header.concepts,
            ref=commit.objects["delta"],
        )

    def _evaluate(self, edits: Sequence[Resolved]) -> tuple[EvaluationPlan, Outcome]:
        """Evaluate the untouched model, which comes first, and these edits of it."""
        label = "base"
        while label in {edit.label for edit in edits}:
            label += "*"
        untouched = Resolved(label=label, kind="base", digest="", erased=())
        prepared = replace(self.evaluation, checkpoints=(untouched, *edits))
        plan = prepared.plan(self.store)
        with identified(run=plan.run):
            started = time.time()
            outcome = run_evaluation(prepared, plan, self.store, self.console, self.form, "tune")
            title, seconds = f"evaluation {plan.run}", time.time() - started
            tell_outcome(self.console, title, outcome, seconds, self.store.uri)
        return plan, outcome

    def _scores(
        self, plan: EvaluationPlan, made: Mapping[Subject, Resolved]
    ) -> dict[Subject, tuple[Measured, Measured]]:
        """By subject, what is seen on the untouched model and with its edit, if all scores are
        there."""
        base, *others = plan.evaluation.entries
        untouched = self.judge.read(plan, base, self.store)
        if untouched is None:
            return {}
        by_label = {entry.checkpoint.label: entry for entry in others}
        found = {}
        for subject, edit in made.items():
            edited = self.judge.read(plan, by_label[edit.label], self.store)
            if edited is not None:
                names = subject.names
                found[subject] = (untouched.measured(names), edited.measured(names))
        return found

    def _tuning(self, run: str | None) -> Tuning:
        combined, reword = None, None
        if (rewording := self.prepared.manifest.rewording) is not None:
            (search,) = self.searches
            combined = search.whole(self.hold)
            if combined.strength is not None:
                reword = scaled(rewording, combined.strength)
        suite = self.choosing.suite
        return Tuning(
            run=run,
            method=self.prepared.manifest.method,
            suite={
                "name": suite.name,
                "sha256": self.choosing.sha256,
                "seeds": list(suite.generation.seeds),
            },
            gone=self.choosing.gone,
            hold=self.hold,
            concepts=tuple(
                search.of_concept(name, self.judge, self.hold)
                for search in self.searches
                for name in search.subject.names
            ),
            combined=combined,
            reword=reword,
            steps=tuple(self.steps),
        )


def _shown(chosen: Mapping[Subject, float]) -> str:
    """Which strengths, and how many concepts have each."""
    if any(subject.reworded for subject in chosen):
        return f"factor {next(iter(chosen.values())):g} for all concepts"
    counts = Counter(chosen.values())
    return "k " + ", ".join(
        f"{100 * value:g} % for {count} concept{'s' if count > 1 else ''}"
        for value, count in sorted(counts.items())
    )
