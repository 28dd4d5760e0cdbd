"""Before any work: check the manifest, identify the model, make the plan."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from conceptprune.edits.projections import check_prompt_sites
from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import ScoredOutputs, load_job_manifest
from conceptprune.evaluation.previews import with_scores
from conceptprune.evaluation.scorers.base import Facts, ScorerSettings
from conceptprune.manifest import Manifest
from conceptprune.manifest.model import BuiltinModel
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models.base import DiffusionModel
from conceptprune.models.components import read_index, read_json
from conceptprune.models.families import (
    check_model,
    check_sites,
    denoiser_of,
    family_named,
    identity,
)
from conceptprune.models.schedulers import check_repeatable
from conceptprune.models.weights import checkpoint_files
from conceptprune.prompts.fillers import asks_generator, placeholders
from conceptprune.prompts.language_model import check_language_model, language_model_identity
from conceptprune.prompts.lengths import check_lengths
from conceptprune.prompts.pairs import PromptPair, prompt_pairs
from conceptprune.prompts.table import Pairs
from conceptprune.store import Store
from conceptprune.units.plan import Plan, build_plan, plan_of_the_rest
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.stored_prompts import load_pairs
from conceptprune.units.units import AnyPromptsUnit, GeneratedPromptsUnit, PromptsUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checked manifest and its model."""

    manifest: Manifest
    model: ModelSettings
    denoiser_weights: int
    """Weights of the whole denoiser, pruned or not."""
    scorers: tuple[tuple[ScorerSettings, Facts], ...] = ()
    """The scorers of previews; readers of a finished run do not need them."""

    def prompts_units(self) -> list[AnyPromptsUnit]:
        """The units that make the prompts."""
        return prompts_units(self.manifest, self.model.language_model)

    def plan(self, pairs: Pairs, unmade: Sequence[AnyPromptsUnit] = ()) -> Plan:
        """The plan of the run with these prompts; see `build_plan`."""
        plan = build_plan(self.manifest, self.model, pairs, unmade)
        return with_scores(plan, self.manifest, pairs, self.scorers)

    def plan_of_the_rest(self, plan: Plan, pairs: Pairs, lacking: Collection[str]) -> Plan:
        """The plan with a combined checkpoint that lacks some concepts; see `plan_of_the_rest`."""
        rest = plan_of_the_rest(self.manifest, plan, pairs, lacking)
        return with_scores(rest, self.manifest, pairs, self.scorers)


def prepare(manifest_path: Path | str, *, sweep: bool = False) -> Prepared:
    """Check a manifest and find its model.

    The part that is not requested is removed from the manifest: its sweep, or with `sweep` its
    outputs.

    Raises:
        UserError: the manifest is wrong, or the model or a scorer's weights do not exist.
    """
    manifest = load_job_manifest(manifest_path)
    if sweep:
        check_sweep(manifest, manifest_path)
    unasked: dict[str, Any] = {"sweep": None}
    if sweep:
        unasked = {"outputs": ScoredOutputs(), "method": "conceptprune", "reword": None}
    # Written out, so that records say which dtype was used and equal runs have the same id.
    collection = manifest.collection.model_copy(update={"dtype": manifest.dtype})
    manifest = manifest.model_copy(update={**unasked, "collection": collection})
    source = manifest.model
    # First, so that what is read here is what the workers must find.
    listing = source.current_listing()
    folder = source.local_folder(listing=listing)
    pipeline = read_index(folder)["_class_name"]
    family = family_named(pipeline)
    family.check_scheduler(manifest.collection.scheduler)
    # The shipped model is complete.
    if not isinstance(source, BuiltinModel):
        check_model(folder)
        check_repeatable(folder, manifest.collection.scheduler, manifest.collection.steps)
        if manifest.collection.resolution is None:
            family.default_size(read_json(folder / denoiser_of(folder) / "config.json"))
    check_sites(pipeline, manifest.pruning.sites)
    if manifest.method == "reword":
        _check_reword(family, pipeline)
    if manifest.collection.window is not None and not family.resumable:
        raise UserError(f"collection.window: must be null, as {pipeline} is of no known family")
    check_lengths(
        folder,
        {
            concept.name: prompt_pairs(concept, seed=manifest.collection.seed)
            for concept in (*manifest.concepts, *manifest.retain)
            if manifest.prompts.generator is None or not asks_generator(concept)
        },
    )
    model = ModelSettings(
        source=source,
        listing=listing,
        identity=identity(folder),
        pipeline=pipeline,
        dtype=manifest.dtype,
        device=manifest.collection.device,
        offload=manifest.compute.offload,
        scheduler=manifest.collection.scheduler,
        resolution=manifest.collection.resolution,
        language_model=_language_model(manifest),
    )
    return Prepared(
        manifest=manifest,
        model=model,
        denoiser_weights=count_weights(folder / denoiser_of(folder)),
        scorers=tuple((scorer, scorer.check()) for scorer in manifest.scorers),
    )


def _check_reword(family: type[DiffusionModel], pipeline: str) -> None:
    try:
        check_prompt_sites(pipeline, family.sites)
    except UserError as error:
        raise UserError(f"method: reword: {error}") from error


def check_sweep(manifest: Manifest, path: Path | str) -> None:
    """Check that a manifest has something to sweep over.

    Raises:
        UserError: it does not.
    """
    if manifest.sweep is None:
        raise UserError(
            f"{path} has no section sweep: give it lists of settings to compare, such as "
            "sweep: {sparsity: [0.005, 0.01, 0.02], tau: [5, 10]}"
        )


def plan_here(prepared: Prepared, store: Store | None = None) -> Plan:
    """The plan, with prompts made in this process; nothing is stored.

    Prompts by a language model are read from the `store`. Those that are missing get the same
    number of placeholders, so that the plan's size is right although its keys are not.
    """
    pairs: dict[str, tuple[PromptPair, ...]] = {}
    for unit in prepared.prompts_units():
        match unit:
            case PromptsUnit():
                for concept in unit.concepts:
                    pairs[concept.name] = prompt_pairs(concept, seed=unit.seed)
            case GeneratedPromptsUnit():
                pairs |= _stored_pairs(unit, store) or _stand_ins(unit)
    return prepared.plan(pairs)


def _stored_pairs(unit: GeneratedPromptsUnit, store: Store | None) -> Pairs | None:
    commit = store.find(unit.kind, unit.key) if store else None
    if store is None or commit is None:
        return None
    return load_pairs(store, commit, [unit.concept.name])


def _stand_ins(unit: GeneratedPromptsUnit) -> Pairs:
    # With the concept's name, since concepts are not expected to share generated base prompts.
    words = tuple(f"{word} of {unit.concept.name}" for word in placeholders(unit.generator))
    concept = unit.concept.model_copy(update={"fillers": words})
    return {concept.name: prompt_pairs(concept, seed=unit.seed)}


def _language_model(manifest: Manifest) -> str | None:
    generator = manifest.prompts.generator
    if generator is None:
        return None
    folder = generator.local_folder()
    try:
        check_language_model(folder)
        return language_model_identity(folder)
    except UserError as error:
        raise UserError(f"prompts.generator.model: {error}") from error


def count_weights(component_folder: Path) -> int:
    """Number of weights in a component's checkpoint, from the headers of its files."""
    total = 0
    for path in checkpoint_files(component_folder):
        with safe_open(path, framework="pt") as stream:
            total += sum(prod(stream.get_slice(key).get_shape()) for key in stream.keys())  # noqa: SIM118
    return total
