"""An exported checkpoint's description: metadata for programs, a model card for people."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from conceptprune.masks.mask import PruningMask
from conceptprune.masks.provenance import check_whole
from conceptprune.models.offload import is_text_encoder
from conceptprune.studio import LABEL
from conceptprune.versions import versions

FORMAT = "conceptprune.export/1"
METADATA_FILE = "conceptprune.json"
CARD_FILE = "README.md"

Form = Literal["pipeline", "single-file", "unet", "delta", "mask"]

KINDS_OF_FILE: dict[Form, str] = {
    "pipeline": "A `from_pretrained` folder",
    "single-file": "One safetensors file of the whole model, under the key names of the original "
    "Stable Diffusion files, for A1111, ComfyUI and the like",
    "unet": "The whole state dict of the denoiser, under diffusers' key names, for code that loads "
    "one strictly",
    "delta": "The edited tensors of the denoiser, under diffusers' key names",
    "mask": "A pruning mask, to apply to the base model and to take back",
}
_GENERATE = 'image = pipe("a photo of a cat").images[0]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of `n` images, with its 95 % interval; each from 0 to 1."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        shares = f"{100 * self.value:.0f} % ({100 * self.low:.0f}-{100 * self.high:.0f})"
        return f"{shares} of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What scorers recognised in images of the base model and of this checkpoint."""

    label: str
    prompts: str
    """Which prompts, in words."""
    want: Literal["low", "high"]
    before: Share | None
    after: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number for `n` images, with its 95 % interval if it has one."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        interval = f" ({self.low:.3g} to {self.high:.3g})" if known else ""
        return f"{self.value:.3g}{interval} of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One number of a suite's group, for the base model and for this checkpoint."""

    suite: str
    group: str
    scorer: str
    metric: str
    better: str
    """"lower", "higher", or empty if neither is."""
    base: Estimate | None
    checkpoint: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A checkpoint as it is exported."""

    form: Form
    mask: PruningMask
    """What is pruned: one concept's mask, or a union."""
    parts: Sequence[PruningMask]
    """The masks of the single concepts; `mask` itself if there is only one."""
    model_digest: str
    """Identity of the base model."""
    pipeline: str
    """The diffusers pipeline class of the base model."""
    denoiser_weights: int
    """Weights of the whole denoiser."""
    file: str | None
    """Name of the safetensors file; None for a pipeline, which is the folder."""
    delta_files: Mapping[str, str] = field(default_factory=dict)
    """For a delta or a state dict, the file of each component."""
    measurements: Sequence[Measurement] = ()
    """From the run's own images, if it generated and scored some."""
    evaluations: Sequence[Evaluation] = ()
    """What `evaluate` and `attack` found for this very mask."""
    sealed: bool = False
    """Whether pruned entries hold random values instead of zeros."""

    def __post_init__(self) -> None:
        """Refuse masks that do not say what a card repeats.

        Raises:
            UserError: one does not.
        """
        for part in self.parts:
            check_whole(part.provenance, part.title)

    @property
    def base_model(self) -> str:
        """What the run called its base model: a hub id, a folder's name, or "studio"."""
        return str(self.parts[0].provenance["model"])

    @property
    def revision(self) -> str | None:
        """The hub revision of the base model."""
        revision: str | None = self.parts[0].provenance.get("revision")
        return revision


def _sites(site: str | list[str]) -> str:
    return site if isinstance(site, str) else ", ".join(site)


def metadata_json(exported: Exported) -> str:
    """Everything on the card and more, for programs."""
    mask = exported.mask
    content = {
        "format": FORMAT,
        "form": exported.form,
        "file": exported.file,
        "base_model": exported.base_model,
        "revision": exported.revision,
        "model_digest": exported.model_digest,
        "component": mask.component,
        "concepts": mask.concepts,
        "mask_digest": mask.digest,
        "entries": mask.num_entries,
        "site_weights": mask.num_weights,
        "denoiser_weights": exported.denoiser_weights,
        "parts": [
            {"concepts": part.concepts, "mask_digest": part.digest, **part.provenance}
            for part in exported.parts
        ],
        "sealed": exported.sealed,
        "measurements": [asdict(measurement) for measurement in exported.measurements],
        "evaluations": [asdict(evaluation) for evaluation in exported.evaluations],
        "exported_with": versions(),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def model_card(exported: Exported) -> str:
    """The card, in Markdown with the YAML front matter that model hubs read."""
    mask = exported.mask
    front_matter = {
        "base_model": exported.base_model,
        "library_name": "conceptprune" if exported.form == "mask" else "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["conceptprune", "concept-erasure", "pruning", "text-to-image", "diffusers"],
    }
    made_with = exported.parts[0].provenance["versions"]
    return (
        card_environment()
        .get_template("model_card.md.jinja")
        .render(
            front_matter=yaml.safe_dump(front_matter, sort_keys=False),
            form=exported.form,
            kind_of_file=KINDS_OF_FILE[exported.form],
            load=load_lines(
                exported.form,
                base_model=exported.base_model,
                revision=exported.revision,
                file=exported.file,
                delta_files=exported.delta_files,
                pipeline=exported.pipeline,
            ),
            base_beside=exported.form != "pipeline"
            and is_local(exported.base_model, exported.revision),
            base_model=exported.base_model,
            revision=exported.revision,
            model_digest=exported.model_digest,
            mask_digest=mask.digest,
            concepts=mask.concepts,
            entries=mask.num_entries,
            percent_of_site=100 * mask.density,
            percent_of_model=100 * mask.num_entries / exported.denoiser_weights,
            fusion=_fusion(mask),
            site=_sites(exported.parts[0].provenance["site"]),
            parts=[_part_row(part) for part in exported.parts],
            measurements=exported.measurements,
            evaluations=exported.evaluations,
            sealed=exported.sealed,
            versions=", ".join(f"{name} {version}" for name, version in sorted(made_with.items())),
            metadata_file=METADATA_FILE,
        )
    )


def _part_row(part: PruningMask) -> dict[str, Any]:
    provenance = part.provenance
    timesteps = [f"{timestep:g}" for timestep in provenance["timesteps"]]
    return {
        "concept": part.concepts[0],
        "kind": provenance["kind"],
        "selection": _selection(provenance["selector"], provenance["selection"]),
        "tau": len(timesteps),
        "timesteps": timesteps[0] if len(timesteps) == 1 else f"{timesteps[0]} to {timesteps[-1]}",
        "guidance": provenance["collection"]["guidance"],
        "seed": provenance["seed"],
        "target": provenance["prompts_digest"]["target"],
        "base": provenance["prompts_digest"]["base"],
    }


def _selection(selector: str, settings: Mapping[str, Any]) -> str:
    """A selector and its settings, without those that are not in use."""
    shown = [f"{name} {value:g}" for name, value in settings.items() if value and name != "tau"]
    return ", ".join([selector, *shown])


def _fusion(mask: PruningMask) -> str:
    """How the masks of several concepts became one."""
    fusion = mask.provenance.get("fusion")
    settings = dict(fusion) if isinstance(fusion, Mapping) else {"how": fusion}
    how = settings.pop("how")
    return " ".join(
        [
            str(how),
            *(f"{name} {settings[name]:g}" for name in ("alpha", "fraction") if name in settings),
        ]
    )


def is_local(base_model: str, revision: str | None) -> bool:
    """Whether a base model is a folder or a file that only its user knows where to find."""
    return revision is None and base_model != LABEL


def load_lines(
    form: Form,
    *,
    base_model: str,
    revision: str | None,
    file: str | None = None,
    delta_files: Mapping[str, str] | None = None,
    pipeline: str = "DiffusionPipeline",
) -> str:
    """Python that loads an export and generates an image; to be run in the folder of the export.

    A base model that is neither from the hub nor shipped is looked up next to it.
    """
    shipped = base_model == LABEL and not revision
    imports, base = [], json.dumps(base_model)
    if shipped:
        imports, base = ["import conceptprune.studio"], "conceptprune.studio.model_path()"
    # diffusers does not accept a Path as a config.
    config = f"str({base})" if shipped else base
    pinned = f", revision={json.dumps(revision)}" if revision else ""
    if base_model.endswith(".safetensors"):
        diffusers, load = pipeline, f"{pipeline}.from_single_file({base})"
    else:
        diffusers, load = "DiffusionPipeline", f"DiffusionPipeline.from_pretrained({base}{pinned})"
    match form:
        case "pipeline":
            imports, diffusers = [], "DiffusionPipeline"
            lines = ['pipe = DiffusionPipeline.from_pretrained(".")', _GENERATE]
        case "single-file":
            diffusers = pipeline
            lines = [
                "# The file has no configs: they are the base model's.",
                f"pipe = {pipeline}.from_single_file({json.dumps(file)}, config={config}{pinned})",
                _GENERATE,
            ]
        case "delta" | "unet":
            imports.append("from safetensors.torch import load_file")
            lines = [f"pipe = {load}"]
            for component, name in (delta_files or {}).items():
                whole = form == "unet" and not is_text_encoder(component)
                lines += _load_whole(component, name) if whole else _load_delta(component, name)
            lines.append(_GENERATE)
        case "mask":
            imports = [*(imports or ["import conceptprune"])]
            lines = [
                f"pipe = {load}",
                f"mask = conceptprune.load_mask({json.dumps(file)})",
                "mask.apply(pipe)",
                _GENERATE,
                "mask.remove(pipe)  # gives back every byte",
            ]
    first = [line for line in imports if line.startswith("import ")]
    then = [f"from diffusers import {diffusers}", *(line for line in imports if line not in first)]
    return "\n".join([*first, *then, "", *lines])


def _load_whole(component: str, name: str) -> list[str]:
    return [f"pipe.{component}.load_state_dict(load_file({json.dumps(name)}))"]


def _load_delta(component: str, name: str) -> list[str]:
    lines = [f"edited = load_file({json.dumps(name)})"]
    if is_text_encoder(component):
        lines += [
            "# Versions of transformers differ: names with `text_model.` before them, or without.",
            f"known = pipe.{component}.state_dict()",
            'forms = lambda name: (name, name.removeprefix("text_model."), "text_model." + name)',
            "edited = {next(filter(known.__contains__, forms(n)), n): edited[n] for n in edited}",
        ]
    return [
        *lines,
        f"found = pipe.{component}.load_state_dict(edited, strict=False)",
        "assert not found.unexpected_keys",
    ]


def code_span(text: str) -> str:
    """Text from others, escaped so that Markdown shows it literally, also in a table cell."""
    shown = "".join(char if char.isprintable() else " " for char in text).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


@cache
def card_environment() -> Environment:
    """The environment that renders cards; text from others goes through its filters."""
    # Markdown, not HTML: text from others goes through `code_span`.
    environment = Environment(
        loader=PackageLoader("conceptprune.checkpoints"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["code"] = code_span
    environment.filters["code_list"] = lambda texts: ", ".join(map(code_span, texts))
    return environment
