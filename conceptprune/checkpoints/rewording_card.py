"""The description of an exported rewording: metadata for programs, a model card for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from conceptprune.checkpoints.card import (
    FORMAT,
    KINDS_OF_FILE,
    METADATA_FILE,
    Evaluation,
    Form,
    Measurement,
    card_environment,
    is_local,
    load_lines,
)
from conceptprune.checkpoints.delta_header import DeltaHeader
from conceptprune.errors import UserError
from conceptprune.masks.provenance import Line, Number, Word
from conceptprune.versions import versions


class Made(BaseModel):
    """What the file of a rewording says of how it was made; other versions may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: Line
    revision: Line | None = None
    settings: dict[Word, Number]
    retained: list[Line]
    versions: dict[Word, Word]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewording:
    """A rewording as it is exported."""

    form: Form
    header: DeltaHeader
    digest: str
    """SHA-256 of the delta, in whatever form it is exported."""
    kinds: Mapping[str, str]
    """The kind of each concept, by name."""
    num_tensors: int
    entries: int
    """Weights in the edited tensors."""
    denoiser_weights: int
    model_digest: str
    pipeline: str
    file: str | None
    """Name of the safetensors file; None for a pipeline, which is the folder."""
    measurements: Sequence[Measurement] = ()
    evaluations: Sequence[Evaluation] = ()

    @property
    def concepts(self) -> tuple[str, ...]:
        """Whom it erases."""
        return self.header.concepts

    @property
    def settings(self) -> Mapping[str, float]:
        """Its settings; most say how much what stays counts, against 1 for what is erased."""
        return self._made.settings

    @property
    def retained(self) -> Sequence[str]:
        """Names of the concepts whose prompts it keeps."""
        return self._made.retained

    @property
    def made_with(self) -> Mapping[str, str]:
        """Versions of the libraries that made it."""
        return self._made.versions

    @property
    def base_model(self) -> str:
        """What the run called its base model: a hub id, a folder's name, or "studio"."""
        return self._made.model

    @property
    def revision(self) -> str | None:
        """The hub revision of the base model."""
        return self._made.revision

    @property
    def _made(self) -> "Made":
        try:
            return Made.model_validate(self.header.provenance)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"the rewording's file does not say how it was made: {where:.200}: {first['msg']}"
            ) from error

    def metadata_json(self) -> str:
        """What the card says and more, to be read by programs."""
        content = {
            "format": FORMAT,
            "form": self.form,
            "method": "reword",
            "file": self.file,
            "base_model": self.base_model,
            "revision": self.revision,
            "model_digest": self.model_digest,
            "component": self.header.component,
            "concepts": self.concepts,
            "kinds": dict(self.kinds),
            "mask_digest": None,
            "delta_digest": self.digest,
            "tensors": self.num_tensors,
            "entries": self.entries,
            "denoiser_weights": self.denoiser_weights,
            "settings": dict(self.settings),
            "retained": list(self.retained),
            "made_with": dict(self.made_with),
            "sealed": False,
            "measurements": [asdict(measurement) for measurement in self.measurements],
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "exported_with": versions(),
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def card(self) -> str:
        """The card, in Markdown with the YAML front matter that model hubs read."""
        front_matter = {
            "base_model": self.base_model,
            "library_name": "diffusers",
            "pipeline_tag": "text-to-image",
            "tags": ["conceptprune", "concept-erasure", "text-to-image", "diffusers"],
        }
        component = self.header.component
        return (
            card_environment()
            .get_template("rewording_card.md.jinja")
            .render(
                front_matter=yaml.safe_dump(front_matter, sort_keys=False),
                form=self.form,
                kind_of_file=KINDS_OF_FILE[self.form],
                load=load_lines(
                    self.form,
                    base_model=self.base_model,
                    revision=self.revision,
                    file=self.file,
                    delta_files={component: self.file} if self.file else {},
                    pipeline=self.pipeline,
                ),
                base_beside=self.form != "pipeline" and is_local(self.base_model, self.revision),
                base_model=self.base_model,
                revision=self.revision,
                model_digest=self.model_digest,
                delta_digest=self.digest,
                concepts=self.concepts,
                kinds=self.kinds,
                num_tensors=self.num_tensors,
                entries=self.entries,
                percent_of_model=100 * self.entries / self.denoiser_weights,
                settings=self.settings,
                retained=self.retained,
                measurements=self.measurements,
                evaluations=self.evaluations,
                versions=", ".join(f"{name} {of}" for name, of in sorted(self.made_with.items())),
                metadata_file=METADATA_FILE,
            )
        )
