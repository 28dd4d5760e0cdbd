"""Everything a report says, read from the store: no model, no Ray."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from conceptprune.collection.statistics import Statistics, said_of
from conceptprune.errors import StoreError, UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, stronger_neurons
from conceptprune.prompts.pairs import PromptPair
from conceptprune.store import Commit, Store, UnknownFormatError, load_table
from conceptprune.units.find import find_commit
from conceptprune.units.results import check_whose

from ..records.asked import AskedConcept
from ..records.collected import Collected, compared
from ..records.combined import combined_row, how_combined, inside, lacking, role_of
from ..records.evaluation import SUMMARY_KINDS
from ..records.ledger import Ledger, is_combined, is_own_mask, open_ledger, read_ledger
from ..records.recognised import Recognised, seen_in_preview_2
from ..records.run_record import RUN_FILE, RunRecord
from ..records.runs import find_run, sound_records
from ..records.unknown import unknown_to_this_version
from ..scheduling.kinds import class_of
from .accuracy import Accuracy, judge_pairs, metrics_in, still_seen
from .erased import times_beside
from .image_pairs import EMBEDDED, NEEDED, Gallery, ImagePair, Role, Strip, make_strip, pair_images
from .rewording import settings
from .rows import Row, blocked_in, cost_of, failures_of, files_of, status_of
from .shared_images import SharedImages
from .values import CombinedReport, ConceptReport, MaskFacts, ReportData
from .where import Contrast, fits, heat_map

STRIP_LIMITS: dict[Role, int] = {"own": 8, "photo": 3, "retained": 8}
FULL_STRIPS = 50
"""Concepts with full strips; with more concepts, strips get shorter, to limit the page's size."""
CACHED = 32
"""Number of cached preview tables and statistics: concepts share those of retained ones."""

Judged = Callable[[str, Sequence[str]], Accuracy | None]
"""From an edit's digest and its concepts."""

logger = logging.getLogger("conceptprune.job")


def read_report(store_uri: str, run: str | None, gallery: Gallery = EMBEDDED) -> ReportData:
    """The report of `run`, or of the most recently started run; its images go to `gallery`.

    Raises:
        UserError: there is no such run, or it has no ledger.
        StoreError: an object is missing or damaged.
    """
    store = Store(store_uri)
    record = find_run(store, run)
    ledger = open_ledger(store, record.run)
    if not ledger.rows:
        raise UserError(
            f"{store_uri}: run {record.run} has no ledger yet: its job has only just started or "
            "was killed; run `conceptprune erase` again, which continues where it stopped"
        )
    return _Reader(store, record, ledger, gallery).report()


def only_evaluated(store: Store) -> bool:
    """Whether the store has finished evaluations or attacks, and no readable run of `erase`."""
    erased, damaged = sound_records(store)
    alone = not erased and any(store.committed(kind) for kind in SUMMARY_KINDS)
    for error in damaged if alone else ():
        logger.warning("going on with the evaluations: %s", error)
    return alone


def evaluation_rows(store: Store) -> list[Row]:
    """The ledgers of all runs other than `erase`; shared units occur once.

    The cost of a run whose ledger cannot be read is left out.
    """
    rows: dict[str, Row] = {}
    for name in store.runs():
        if store.read_run_file(name, RUN_FILE) is not None:
            continue
        try:
            rows |= {row["key"]: row for row in read_ledger(store, name)}
        except UnknownFormatError:
            # A later version's.
            continue
        except StoreError as error:
            logger.warning("a cost is not shown: %s", error)
    return list(rows.values())


def judged_edits(store: Store, record: RunRecord) -> Judged:
    """Accuracy of each mask or rewording on the run's own images; None if there are no images."""
    ledger = open_ledger(store, record.run)
    if not any(row["kind"] == "preview" for row in ledger.rows):
        return lambda digest, concepts: None
    return _Reader(store, record, ledger, EMBEDDED).accuracy_of


class _Reader:
    """Reads one run's results out of the store, concept by concept.

    What another version recorded in an unknown form is left out, and named.
    """

    def __init__(self, store: Store, record: RunRecord, ledger: Ledger, gallery: Gallery) -> None:
        self.store = store
        self.record = record
        self.gallery = gallery
        self.not_shown = dict.fromkeys(unknown_to_this_version(record, ledger))
        collected = self.collected(ledger)
        self.pairs = collected.pairs
        self.rows = collected.rows
        self.prompts_of = {key: digest for digest, key in collected.statistics.items()}
        self.untouched: dict[tuple[Role, str, int], ImagePair] = {}
        self.rows_of: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            for name in row["concepts"]:
                self.rows_of[name].append(row)
        self.masks = {row["concepts"][0]: row for row in self.rows if is_own_mask(row)}
        self.concepts = record.asked.concepts or tuple(
            AskedConcept(name=name, kind="") for name in self.masks
        )
        if not self.concepts:
            raise UserError(
                f"{store.uri}: run {record.run} cannot be shown, as it names no concept that this "
                f"version knows of; not known: {'; '.join(self.not_shown) or 'nothing'}"
            )
        self.bases = {
            pair.base.text for each in self.concepts for pair in self.pairs.get(each.name, ())
        }
        self.recognised = self.recognised_in(self.rows)
        self.preview_rows = lru_cache(CACHED)(self._preview_rows)
        self.statistics = lru_cache(CACHED)(self._statistics)
        self.shared = SharedImages(self.rows, self.preview_rows)
        self.times = times_beside(store, record.run)

    def collected(self, ledger: Ledger) -> Collected:
        try:
            return Collected.of(self.store, self.record, ledger)
        except UnknownFormatError:
            self.not_shown["the prompts, and so what each image asks for"] = None
            return Collected(rows=ledger.rows, pairs={}, statistics={})

    def recognised_in(self, rows: Sequence[Row]) -> Recognised:
        try:
            return Recognised(self.store, rows)
        except UnknownFormatError:
            self.not_shown["what was recognised in images"] = None
            return Recognised(self.store, ())

    def report(self) -> ReportData:
        combined = combined_row(self.rows)
        provenance: Mapping[str, Any] = {}
        asked = self.record.asked
        own_settings = False
        concepts = []
        for each in self.concepts:
            row = self.masks.get(each.name)
            mask = self.mask(row) if row else None
            provenance = provenance or (mask.provenance if mask else {})
            if mask:
                made = mask.provenance
                chosen = {**(made.get("selection") or {}), "selector": made.get("selector")}
                own_settings |= any(chosen[name] != asked.get("pruning", name) for name in chosen)
            concepts.append(self.concept(each, row, mask))
        untouched = list(self.untouched.values())
        of_all = [row for row in self.rows if not row["concepts"]]
        finished = [row["finished"] for row in self.rows if row["finished"]]
        kinds = dict.fromkeys(row["kind"] for row in self.rows if class_of(row["kind"]) is None)
        if kinds:
            self.not_shown[f"what units of the kinds {', '.join(kinds)} made"] = None
        return ReportData(
            run=self.record.run,
            model=self.record.model_label,
            started=datetime.fromtimestamp(self.record.started, UTC),
            finished=max(finished, default=None),
            asked=asked,
            calls=asked.get("pruning", "tau") or asked.get("collection", "tau"),
            own_settings=own_settings,
            concepts=tuple(concepts),
            failures=failures_of(of_all),
            blocked=blocked_in(of_all),
            combined=self.combined(combined) if combined else None,
            untouched=judge_pairs(untouched, kind=self.concepts[0].kind),
            scorers=tuple(dict.fromkeys(metric.scorer for metric in metrics_in(untouched))),
            cost=cost_of(self.rows, {}),
            provenance=provenance,
            not_shown=tuple(self.not_shown),
        )

    def concept(
        self, asked: AskedConcept, mask_row: Row | None, mask: PruningMask | None
    ) -> ConceptReport:
        rows = self.rows_of[asked.name]
        key = mask_row["key"] if mask_row else ""
        texts = [pair.target.text for pair in self.pairs.get(asked.name, ())]
        shown, those = self.shared.of(key, rows, texts)
        image_pairs = self.image_pairs([asked.name], shown, those)
        if shown != key:
            # The rest of a batch of shared images is about other concepts.
            image_pairs = [pair for pair in image_pairs if pair.role == "own"]
        for image_pair in image_pairs:
            if image_pair.before:
                before = replace(image_pair.before, png=b"")
                at = (image_pair.role, image_pair.prompt, image_pair.seed)
                self.untouched[at] = replace(image_pair, before=before, after=None)
        return ConceptReport(
            name=asked.name,
            kind=asked.kind,
            status=status_of(rows),
            failures=failures_of(rows),
            blocked=blocked_in(rows),
            cost=cost_of(rows, {row["key"]: 1 / len(row["concepts"]) for row in rows}),
            mask=self.mask_facts(mask_row) if mask_row else None,
            checkpoints=tuple(
                (files_of(row["objects"]), row["bytes"])
                for row in rows
                if row["kind"] == "checkpoint" and row["mask"] == key and row["objects"]
            ),
            strips=self.strips(image_pairs, asked.kind),
            accuracy=judge_pairs(image_pairs, kind=asked.kind),
            where=heat_map(mask, self.contrast(mask_row, mask)) if mask and mask_row else None,
            erased_at=mask_row["finished"] if mask_row else None,
            times=self.times.get(asked.name),
        )

    def strips(self, image_pairs: Sequence[ImagePair], kind: str) -> tuple[Strip, ...]:
        """Images by role; those that still show the concept come first."""
        shorter = 1 if self.gallery.whole else FULL_STRIPS / len(self.concepts)
        found = (
            make_strip(
                image_pairs,
                role,
                limit=max(1, int(limit * min(1, shorter))),
                gallery=self.gallery,
                first=partial(still_seen, kind=kind),
            )
            for role, limit in STRIP_LIMITS.items()
        )
        return tuple(strip for strip in found if strip)

    def accuracy_of(self, digest: str, concepts: Sequence[str]) -> Accuracy | None:
        """The results of one edit on the run's images; None if there are none."""
        for row in self.rows:
            # What is combined belongs to no single concept.
            own = is_own_mask(row) and row["concepts"] == list(concepts)
            if not own and not is_combined(row):
                continue
            commit = self.find(row["kind"], row["key"])
            if commit and (ref := commit.objects.get(role_of(row))) and ref.digest == digest:
                kinds = {each.name: each.kind for each in self.concepts}
                chosen = [name for name in kinds if name in concepts]
                rows = self.rows_about(concepts) if own else self.rows
                return judge_pairs(
                    self.image_pairs(chosen, row["key"], rows), kind=kinds[chosen[0]]
                )
        return None

    def rows_about(self, concepts: Iterable[str]) -> list[Row]:
        return [row for row in self.rows if set(concepts) & set(row["concepts"])]

    def combined(self, row: Row) -> CombinedReport:
        """The combined checkpoint, with its images for the concepts in it."""
        without = lacking(row, self.rows)
        names = [each.name for each in self.concepts if each.name not in without]
        pairs = self.image_pairs(names, row["key"], self.rows)
        kind = self.concepts[0].kind
        commit = self.find(row["kind"], row["key"]) if row["objects"] else None
        return CombinedReport(
            how=how_combined(row),
            facts=self.mask_facts(row),
            accuracy=judge_pairs(pairs, kind=kind),
            strips=self.strips(pairs, kind),
            lacking=without,
            rewording=settings(self.store, commit, row, inside(row, self.rows)) if commit else {},
        )

    def image_pairs(
        self, concepts: Sequence[str], mask_key: str, rows: Sequence[Row]
    ) -> list[ImagePair]:
        pairs: list[PromptPair] = []
        for name in concepts:
            if name not in self.pairs:
                # Without them, it is unknown why a prompt was generated.
                continue
            pairs += self.pairs[name]
        if not pairs:
            return []
        previews = [row for row in rows if row["kind"] == "preview"]
        keys_before = [row["key"] for row in previews if row["mask"] is None]
        keys_after = [row["key"] for row in previews if row["mask"] == mask_key]
        return pair_images(
            [image for key in keys_before for image in self.preview_rows(key)],
            [image for key in keys_after for image in self.preview_rows(key)],
            targets={pair.target.text for pair in pairs},
            bases={pair.base.text for pair in pairs},
        )

    def mask(self, row: Row) -> PruningMask | None:
        commit = self.find(row["kind"], row["key"]) if row["objects"] else None
        if commit is None:
            return None
        data = self.store.load(commit, "mask")
        try:
            mask = PruningMask.from_bytes(data)
            if is_own_mask(row):
                check_whose(self.store, commit, mask, row["concepts"][0])
            return mask
        except UserError as error:
            # The bytes are intact, so another version wrote them.
            self.not_shown[f"where masks prune ({error})"] = None
            return None

    def mask_facts(self, row: Row) -> MaskFacts | None:
        commit = self.find(row["kind"], row["key"]) if row["objects"] else None
        if commit is None or not row["entries"] or not row["site_weights"]:
            return None
        ref = commit.objects.get(role_of(row))
        if ref is None:
            return None
        weights = self.record.denoiser_weights
        return MaskFacts(
            entries=row["entries"],
            share_of_site=row["entries"] / row["site_weights"],
            share_of_model=row["entries"] / weights if weights else None,
            digest=ref.digest,
            path=ref.path,
            size=ref.size,
        )

    def contrast(self, row: Row, mask: PruningMask) -> Contrast | None:
        """Contrast of a mask's sides, from the statistics of the prompts named in its file."""
        made = mask.provenance
        prompts = made.get("prompts_digest") or {}
        keys = {self.prompts_of.get(key): key for key in compared(row)}
        target_key, base_key = keys.get(prompts.get("target")), keys.get(prompts.get("base"))
        if target_key is None or base_key is None:
            return None
        target, base = self.statistics(target_key), self.statistics(base_key)
        others = [key for key in compared(row) if key not in (target_key, base_key)]
        retained = [side for key in others if (side := self.statistics(key))]
        if target is None or base is None or len(retained) < len(others):
            return None
        sides = (target, base, *retained)
        if not all(fits(side, mask, target.num_calls) for side in sides):
            self.not_shown["which calls selected the weights (statistics do not fit a mask)"] = None
            return None
        try:
            evidence = Evidence(target=target, base=base, retained=retained, rule=made["base"])
            return Contrast(
                timesteps=target.timesteps[: made["selection"]["tau"]],
                stronger={
                    name: stronger_neurons(made["selector"], name, evidence)
                    for name in target.layers
                },
            )
        except (LookupError, TypeError, ValueError) as error:
            self.not_shown[f"which calls selected the weights ({error} is not known)"] = None
            return None

    def find(self, kind: str, key: str) -> Commit | None:
        try:
            return find_commit(self.store, kind, key)
        except UnknownFormatError:
            self.not_shown["results with a record of another format"] = None
            return None

    def _statistics(self, key: str) -> Statistics | None:
        commit = self.find("statistics", key)
        if commit is None:
            return None
        table = load_table(self.store, commit, "statistics")
        try:
            self.store.check_unit(commit, "statistics", f"{said_of(table).get('side', key)}")
            return Statistics.from_arrow(table)
        except ValueError as error:
            self.not_shown[f"which calls selected the weights ({error})"] = None
            return None

    def _preview_rows(self, key: str) -> list[dict[str, Any]]:
        commit = self.find("preview", key)
        if commit is None:
            return []
        table = load_table(self.store, commit, "preview")
        if not set(NEEDED) <= set(table.column_names):
            self.not_shown["images in a table of another format"] = None
            return []
        rows: list[dict[str, Any]] = table.to_pylist()
        if "seen_look" in table.column_names:
            return [{**row, "seen": seen_in_preview_2(row, self.bases)} for row in rows]
        seen = self.recognised.of(key)
        return [{**row, "seen": seen.get((row["prompt"], row["seed"]), ())} for row in rows]
