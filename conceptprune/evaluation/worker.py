"""What a worker does with each unit of an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from conceptprune.checkpoints.delta import Delta, applied, load_edit
from conceptprune.evaluation.checkpoint import ImageModel, images_identity
from conceptprune.evaluation.items import own_items
from conceptprune.evaluation.scorers.base import Facts, ScorerSettings
from conceptprune.evaluation.scoring import Row, Scorers, read_rows
from conceptprune.evaluation.summarise import CaseKey, Scored, case_key, summary_table
from conceptprune.evaluation.summary import OBJECT
from conceptprune.evaluation.tables import (
    ALL_IMAGES,
    ALL_SCORES,
    images_table,
    labels_from_json,
    scores_table,
    set_scores_table,
    sorted_table,
)
from conceptprune.evaluation.units import (
    EvaluationUnit,
    ImagesUnit,
    ScoredBy,
    ScoresUnit,
    SetScoresUnit,
)
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import check_identity, family_named
from conceptprune.models.generate import generate
from conceptprune.models.images import Image, png, read_image
from conceptprune.store import Commit, ObjectRef, Store, unit_table
from conceptprune.store.claims import Claims
from conceptprune.units.batch_memory import BatchMemory
from conceptprune.units.commit import Made, UnitWorker
from conceptprune.units.unit import APPLIED, Unit


class Evaluator(UnitWorker):
    """Does the units of evaluations; keeps models loaded between units."""

    def __init__(self, store: Store, base: ImageModel, claims: Claims | None = None) -> None:
        super().__init__(store, claims)
        self.base = base
        self._models: dict[str, DiffusionModel] = {}
        self._memory: dict[int, BatchMemory] = {}

    def make(self, unit: Unit) -> Made:
        """Compute a unit of an evaluation and write its objects.

        Raises:
            UserError, StoreError: see what each kind calls.
        """
        match unit:
            case ImagesUnit():
                return self._images(unit)
            case ScoresUnit():
                return self._scores(unit)
            case SetScoresUnit():
                return self._set_scores(unit)
            case EvaluationUnit():
                return self._evaluation(unit)
            case _:
                raise TypeError(f"an evaluation's worker does not make units of kind {unit.kind}")

    @property
    def device(self) -> str:
        """Where networks run."""
        if self.base.model.device != "auto":
            return self.base.model.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def model(self, image_model: ImageModel) -> DiffusionModel:
        """The loaded model, unedited; the base and the last other folder stay loaded."""
        if image_model.identity not in self._models:
            others = self._models.keys() - {self.base.identity}
            for identity in others:
                del self._models[identity]
            settings = image_model.model
            dtype: torch.dtype = getattr(torch, settings.dtype)
            folder = settings.folder()
            check_identity(folder, images_identity(folder), image_model.identity)
            self._models[image_model.identity] = family_named(settings.pipeline).load(
                folder,
                dtype=dtype,
                device=self.device,
                scheduler=settings.scheduler,
                resolution=settings.resolution,
            )
        return self._models[image_model.identity]

    def edit(self, image_model: ImageModel) -> PruningMask | Delta | None:
        """The mask or delta to apply, read from the store."""
        if image_model.edit is None:
            return None
        data = self.store.read(image_model.edit.ref)
        return load_edit(image_model.edit.kind, data, image_model.model.folder())

    @cached_property
    def scorers(self) -> Scorers:
        """The scorers of this process."""
        return Scorers(self.device)

    def scorer(self, settings: ScorerSettings, facts: Facts) -> Any:
        """A loaded scorer; see `Scorers.loaded`."""
        return self.scorers.loaded(settings, facts)

    def _put(self, role: str, data: bytes, *, suffix: str) -> ObjectRef:
        return self.store.put(data, kind=role, model=self.base.model.identity, suffix=suffix)

    def put_table(self, unit: Unit, role: str, table: Any) -> ObjectRef:
        """Write a Parquet table of a unit."""
        return self._put(role, unit_table(table, unit.key), suffix="parquet")

    def _images(self, unit: ImagesUnit) -> Made:
        model = self.model(unit.image_model)
        memory = self._memory.setdefault(unit.batch_size, BatchMemory(unit.batch_size))
        with applied(model, self.edit(unit.image_model)):
            for attempt in memory.attempts():
                with attempt as at_once:
                    images = generate(
                        model,
                        unit.prompts,
                        steps=unit.steps,
                        guidance=unit.guidance,
                        batch_size=unit.batch_size,
                        at_once=at_once,
                    )
        roles = [f"image.{index}" for index in range(len(images))]
        refs = [self._put("image", png(image), suffix="png") for image in images]
        table = images_table(unit.prompts, list(images), refs, roles, unit.guidance)
        objects = {"images": self.put_table(unit, "images", table)}
        objects |= dict(zip(roles, refs, strict=True))
        if unit.image_model.edit is not None:
            objects[APPLIED] = unit.image_model.edit.ref
        return Made(objects=objects, facts={"at_once": memory.at_once})

    def _scores(self, unit: ScoresUnit) -> Made:
        prompts = [(case.text, case.seed) for case in unit.cases]
        images = self._images_in_order(unit.images, prompts)
        references = None
        if unit.references is not None:
            references = self._images_in_order(unit.references, prompts)
        readings = self.scorer(unit.scorer, unit.facts).score(images, unit.cases, references)
        table = scores_table(unit.cases, readings)
        return Made(objects={"scores": self.put_table(unit, "scores", table)})

    def _set_scores(self, unit: SetScoresUnit) -> Made:
        wanted = {(prompt.text, prompt.seed) for prompt in unit.prompts}
        # Not all in memory at once: there may be tens of thousands.
        sides = [
            (image for key in keys for image in self._wanted_images(key, wanted))
            for keys in (unit.images, unit.references)
        ]
        readings = self.scorer(unit.scorer, unit.facts).score_sets(*sides)
        table = set_scores_table(readings, len(wanted))
        return Made(objects={"scores": self.put_table(unit, "scores", table)})

    def _images_in_order(self, key: str, prompts: Sequence[tuple[str, int]]) -> list[Image]:
        """The images of some prompts from one shard, in the order of the prompts."""
        commit = self.store.get(ImagesUnit.kind, key)
        roles = {(row["prompt"], row["seed"]): row["role"] for row in self.rows(commit, "images")}
        found = {
            prompt: read_image(self.store.load(commit, roles[prompt]))
            for prompt in dict.fromkeys(prompts)
        }
        return [found[prompt] for prompt in prompts]

    def _wanted_images(self, key: str, wanted: set[tuple[str, int]]) -> Iterator[Image]:
        """The images of one shard whose prompts are wanted, in the shard's order."""
        commit = self.store.get(ImagesUnit.kind, key)
        for row in self.rows(commit, "images"):
            if (row["prompt"], row["seed"]) in wanted:
                yield read_image(self.store.load(commit, row["role"]))

    def images_of(self, key: str) -> dict[tuple[str, int], Image]:
        """The images of one shard, by prompt and seed."""
        commit = self.store.get(ImagesUnit.kind, key)
        return {
            (row["prompt"], row["seed"]): read_image(self.store.load(commit, row["role"]))
            for row in self.rows(commit, "images")
        }

    def _images_rows(self, key: str) -> list[Row]:
        return self.rows(self.store.get(ImagesUnit.kind, key), "images")

    def rows(self, commit: Commit, role: str) -> list[Row]:
        """The rows of one of a commit's Parquet tables."""
        return read_rows(self.store, commit, role)

    def _evaluation(self, unit: EvaluationUnit) -> Made:
        images: list[Row] = []
        scores: list[Row] = []
        scored: list[list[Scored]] = []
        for entry in unit.entries:
            shards = [self._images_rows(key) for key in entry.images]
            rows = {
                (row["prompt"], row["seed"], row["guidance"]): row
                for shard in shards
                for row in shard
            }
            # The same for a whole shard, so its scores do not repeat it.
            guidances = [shard[0]["guidance"] for shard in shards]
            by_scorer = [self._scored(one, guidances) for one in entry.scored]
            scored.append([found for found, _ in by_scorer])
            about = {"checkpoint": entry.checkpoint.label}
            items = own_items(unit.items, entry.checkpoint.erased) if entry.own else unit.items
            for item in items:
                row = rows[item.prompt.text, item.prompt.seed, item.guidance]
                place = {
                    **about,
                    "group": item.group,
                    "name": item.name,
                    "prompt": item.prompt.text,
                    "seed": item.prompt.seed,
                    "guidance": item.guidance,
                    "image_digest": row["image_digest"],
                }
                images.append({**place, "image": row["image"]})
                scores += [
                    {**place, **reading}
                    for _, readings in by_scorer
                    for reading in readings.get(case_key(item), ())
                ]
        return Made(
            objects={
                OBJECT: self.put_table(unit, "evaluation", summary_table(unit, scored)),
                "images": self.put_table(unit, "evaluation", sorted_table(images, ALL_IMAGES)),
                "scores": self.put_table(unit, "evaluation", sorted_table(scores, ALL_SCORES)),
            }
        )

    def _scored(
        self, one: ScoredBy, guidances: Sequence[float]
    ) -> tuple[Scored, Mapping[CaseKey, list[Row]]]:
        """A scorer's results for a checkpoint, as numbers and as rows by case.

        `guidances` are the guidance scales of the shards.
        """
        values: dict[tuple[str, CaseKey], float] = {}
        rows: dict[CaseKey, list[Row]] = {}
        for key, guidance in zip(one.scores, guidances, strict=bool(one.scores)):
            for row in self.rows(self.store.get(ScoresUnit.kind, key), "scores"):
                case = (row["prompt"], row["seed"], guidance, labels_from_json(row["labels"]))
                if row["value"] is not None:
                    values[row["metric"], case] = row["value"]
                reading = {name: row[name] for name in ("metric", "value", "seen")}
                rows.setdefault(case, []).append({"scorer": one.scorer.title, **reading})
        sets = {
            (group, row["metric"]): {name: row[name] for name in ("value", "low", "high", "n")}
            for group, key in one.sets
            for row in self.rows(self.store.get(SetScoresUnit.kind, key), "scores")
        }
        found = Scored(scorer=one.scorer, facts=one.facts, values=values, sets=sets)
        return found, rows
