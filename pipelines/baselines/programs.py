"""What each baseline does with a manifest: check, load the model, edit, write the checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from conceptprune.baselines.checkpoint import FILE, Baseline, Method
from conceptprune.baselines.controls import (
    Choose,
    at_random,
    by_magnitude,
    control_mask,
    counts_like,
    counts_of_share,
    unpruned,
)
from conceptprune.baselines.esd import changed, read_esd
from conceptprune.baselines.rece import ReceSettings, gram_of, published, rece_map
from conceptprune.baselines.speed import SpeedSettings, speed_weights
from conceptprune.baselines.texts import (
    edits_of,
    encoded,
    guides_for,
    retained_names,
)
from conceptprune.baselines.uce import Edit, Encoded, UceSettings, uce_map
from conceptprune.checkpoints.card import CARD_FILE, METADATA_FILE
from conceptprune.edits.projections import (
    PROMPT_SITES,
    VALUE_SITES,
    edited,
    prompt_projections,
)
from conceptprune.errors import UserError
from conceptprune.manifest import Manifest
from conceptprune.masks.mask import PruningMask, load_mask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import denoiser_of, family_named
from conceptprune.models.weights import read_tensors, read_weights

from ..commands.output import check_unused, complete_or_absent
from ..console.logs import one_line
from ..console.terminal import echo
from ..jobs.preparation import prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A checked manifest, its model's folder, and a folder to write that does not exist yet."""

    manifest: Manifest
    folder: Path
    pipeline: str
    label: str
    revision: str | None
    digest: str
    out: Path

    @classmethod
    def of(cls, manifest: Path, out: Path) -> "Scene":
        """Check the manifest, and that `out` is free.

        Raises:
            UserError: the manifest is wrong, its model is not there, or `out` is in use.
        """
        out = out.resolve()
        check_unused(out)
        prepared = prepare(manifest)
        model = prepared.model
        return cls(
            manifest=prepared.manifest,
            folder=model.folder(),
            pipeline=model.pipeline,
            label=model.source.label,
            revision=model.source.hub_revision,
            digest=model.identity,
            out=out,
        )

    def load(self) -> DiffusionModel:
        """The model in float32 on the CPU: edits take seconds, and are the same everywhere."""
        return family_named(self.pipeline).load(self.folder)

    def write(
        self,
        method: Method,
        component: str,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        *,
        mask: str | None = None,
    ) -> None:
        """Write delta, metadata and card to `out`, all or none of them."""
        made = Baseline(
            method=method,
            concepts=tuple(concept.name for concept in self.manifest.concepts),
            component=component,
            tensors=tensors,
            settings=settings,
            model=self.label,
            revision=self.revision,
            model_digest=self.digest,
            mask=mask,
        )
        delta = made.delta()
        with complete_or_absent(self.out) as temporary:
            (temporary / FILE).write_bytes(delta)
            (temporary / METADATA_FILE).write_text(made.metadata_json(), encoding="utf-8")
            (temporary / CARD_FILE).write_text(made.card(), encoding="utf-8")
        echo(
            f"wrote {self.out / FILE}: {method} of {one_line(', '.join(made.concepts))}, "
            f"{len(tensors)} tensors, {len(delta):,} bytes"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The inputs of UCE, RECE and SPEED."""

    model: DiffusionModel
    projections: Sequence[str]
    """Names of the linears to edit."""
    edits: Sequence[Edit]
    preserved: Sequence[Encoded]
    settings: Mapping[str, Any]
    """JSON: guides, preserved names."""

    @classmethod
    def of(
        cls,
        scene: Scene,
        guides: Sequence[str],
        preserve: Sequence[str],
        expand: bool,
        sites: Sequence[str] = PROMPT_SITES,
    ) -> "Texts":
        """The manifest's concepts as edits; its retained concepts and `preserve` as preserved."""
        concepts = scene.manifest.concepts
        resolved = guides_for(concepts, guides)
        model = scene.load()
        kept = list(dict.fromkeys([*retained_names(scene.manifest), *preserve]))
        return cls(
            model=model,
            projections=tuple(prompt_projections(model, sites)),
            edits=edits_of(model, concepts, resolved, expand=expand),
            preserved=[encoded(model, text) for text in kept],
            settings={"guides": resolved, "preserve": kept, "expand": expand},
        )

    def weights(self, scene: Scene) -> dict[str, Tensor]:
        """The projections to edit, as stored in the model's files, by module name."""
        return read_weights(scene.folder / self.model.component, self.projections)

    def write(
        self, method: Method, scene: Scene, tensors: Mapping[str, Tensor], settings: dict[str, Any]
    ) -> None:
        """Write edited projections, by module name, and what they were made by."""
        scene.write(
            method,
            self.model.component,
            {f"{name}.weight": tensor for name, tensor in tensors.items()},
            {**self.settings, **settings},
        )


def uce(
    manifest: Path,
    out: Path,
    *,
    guides: Sequence[str],
    preserve: Sequence[str],
    expand: bool,
    settings: UceSettings,
) -> None:
    """Erase all concepts of a manifest by UCE.

    Raises:
        UserError: the manifest, an option or the model's family does not fit.
    """
    scene = Scene.of(manifest, out)
    texts = Texts.of(scene, guides, preserve, expand)
    change = uce_map(texts.edits, texts.preserved, settings)
    texts.write("uce", scene, edited(texts.weights(scene), change), asdict(settings))


def rece(
    manifest: Path,
    out: Path,
    *,
    guides: Sequence[str],
    preserve: Sequence[str],
    expand: bool,
    again: UceSettings,
    epochs: int | None = None,
    regularisation: float | None = None,
) -> None:
    """Erase all concepts of a manifest by RECE; the empty prompt is preserved, as published.

    `epochs` and `regularisation` default to those published for the concepts' kind.

    Raises:
        UserError: as for `uce`.
    """
    scene = Scene.of(manifest, out)
    if epochs is None or regularisation is None:
        known = published(concept.kind for concept in scene.manifest.concepts)
        epochs = known[0] if epochs is None else epochs
        regularisation = known[1] if regularisation is None else regularisation
    settings = ReceSettings(again=again, epochs=epochs, regularisation=regularisation)
    texts = Texts.of(scene, guides, ["", *preserve], expand)
    weights = texts.weights(scene)
    change = rece_map(texts.edits, texts.preserved, gram_of(list(weights.values())), settings)
    texts.write("rece", scene, edited(weights, change), asdict(settings))


def speed(
    manifest: Path,
    out: Path,
    *,
    guides: Sequence[str],
    preserve: Sequence[str],
    expand: bool,
    settings: SpeedSettings,
) -> None:
    """Erase all concepts of a manifest by SPEED, in the values alone, as published.

    Raises:
        UserError: as for `uce`.
    """
    scene = Scene.of(manifest, out)
    texts = Texts.of(scene, guides, preserve, expand, sites=VALUE_SITES)
    empty = encoded(texts.model, "")
    found = speed_weights(texts.weights(scene), texts.edits, texts.preserved, empty, settings)
    texts.write("speed", scene, found, asdict(settings))


def random(
    manifest: Path, out: Path, *, density: float | None, like: Path | None, seed: int
) -> None:
    """Zero weights of the manifest's site at random.

    Raises:
        UserError: both or neither of `density` and `like` are given, or as for `uce`.
    """
    _control("random", manifest, out, density, like, {"seed": seed}, at_random(seed))


def magnitude(
    manifest: Path, out: Path, *, density: float | None, like: Path | None, smallest: bool
) -> None:
    """Zero the largest weights of the manifest's site, or its smallest.

    Raises:
        UserError: as for `random`.
    """
    choose = by_magnitude(smallest=smallest)
    _control("magnitude", manifest, out, density, like, {"smallest": smallest}, choose)


def esd(checkpoint: Path, manifest: Path, out: Path) -> None:
    """Turn a checkpoint that ESD trained on the manifest's model and concepts into a delta.

    Raises:
        UserError: the file does not hold ESD's tensors for this model, or as for `uce`.
    """
    scene = Scene.of(manifest, out)
    component = denoiser_of(scene.folder)
    found = read_esd(checkpoint, component)
    edited_tensors = changed(found, read_tensors(scene.folder / component), checkpoint)
    scene.write("esd", component, edited_tensors, {"file": checkpoint.name})


def _control(
    method: Method,
    manifest: Path,
    out: Path,
    density: float | None,
    like: Path | None,
    settings: Mapping[str, Any],
    choose: Choose,
) -> None:
    if (density is None) == (like is None):
        raise UserError("give either --density or --like")
    model_mask = None if like is None else load_mask(like)
    scene = Scene.of(manifest, out)
    model = scene.load()
    site = scene.manifest.pruning.site
    linears = model.site_linears([site] if isinstance(site, str) else site)
    elsewhere = [name for name in linears if "/" in name]
    if elsewhere:
        raise UserError(
            f"pruning.site: {elsewhere[0]} is not in the denoiser, and a delta has one component"
        )
    weights = read_weights(scene.folder / model.component, linears)
    layers = unpruned(weights, {name: item.first_column for name, item in linears.items()})
    counts = (
        counts_of_share(layers, density or 0.0)
        if model_mask is None
        else counts_like(layers, model_mask)
    )
    empty = PruningMask(
        concepts=tuple(concept.name for concept in scene.manifest.concepts),
        component=model.component,
        layers=layers,
        provenance={"method": method, "model": scene.label, "model_digest": scene.digest},
    )
    mask = control_mask(weights, empty, counts, choose)
    pruned = mask.pruned_weights(weights)
    scene.write(
        method,
        model.component,
        {f"{name}.weight": tensor for name, tensor in pruned.items()},
        {
            **settings,
            "density": mask.density,
            "like": None if model_mask is None else model_mask.digest,
        },
        mask=mask.digest,
    )
