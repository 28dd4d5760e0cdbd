"""The description of an exported rewording: metadata for programs, a model card for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

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
from conceptprune.versions import versions


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
        """Its strengths: how much what stays counts, against 1 for what is erased."""
        settings: Mapping[str, float] = self._made("settings", dict)
        return settings

    @property
    def retained(self) -> Sequence[str]:
        """Names of the concepts whose prompts it keeps."""
        names: Sequence[str] = self._made("retained", list)
        return names

    @property
    def made_with(self) -> Mapping[str, str]:
        """Versions of the libraries that made it."""
        found: Mapping[str, str] = self._made("versions", dict)
        return found

    @property
    def base_model(self) -> str:
        """What the run called its base model: a hub id, a folder's name, or "studio"."""
        name: str = self._made("model", str)
        return name

    @property
    def revision(self) -> str | None:
        """The hub revision of the base model."""
        revision: Any = self.header.provenance.get("revision")
        return revision if isinstance(revision, str) else None

    def _made(self, name: str, of: type) -> Any:
        value = self.header.provenance.get(name)
        if not isinstance(value, of):
            raise UserError(f"the rewording's file does not say how it was made: no {name}")
        return value

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
