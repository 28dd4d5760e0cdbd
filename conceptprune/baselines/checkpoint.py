"""A baseline's checkpoint: a delta like those of `export`, its metadata and its model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from torch import Tensor

from conceptprune.checkpoints.card import card_environment, is_local, load_lines
from conceptprune.checkpoints.files import encode_delta
from conceptprune.versions import versions

FORMAT = "conceptprune.baseline/1"
FILE = "delta.safetensors"

Method = Literal["uce", "rece", "speed", "random", "magnitude", "esd"]

_WHAT: Mapping[Method, str] = {
    "uce": "Cross-attention's keys and values are edited in closed form, by Unified Concept "
    "Editing ([Gandikota et al., WACV 2024](https://arxiv.org/abs/2308.14761)).",
    "rece": "Cross-attention's keys and values are edited in closed form and in turns, by RECE "
    "([Gong et al., ECCV 2024](https://arxiv.org/abs/2407.12383)).",
    "speed": "Cross-attention's values are edited in closed form, within what retained concepts "
    "leave free, by SPEED ([Li et al., ICLR 2026](https://arxiv.org/abs/2503.07392)).",
    "random": "**A control, not an erasure:** weights chosen at random are set to zero.",
    "magnitude": "**A control, not an erasure:** weights chosen by magnitude are set to zero.",
    "esd": "The denoiser was trained by ESD "
    "([Gandikota et al., ICCV 2023](https://arxiv.org/abs/2303.07345)); this is an import of that "
    "checkpoint.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a baseline made of a model."""

    method: Method
    concepts: tuple[str, ...]
    component: str
    """The denoiser's name in the pipeline ("unet")."""
    tensors: Mapping[str, Tensor]
    """The edited ones, by parameter name, in the dtype of the model's own files."""
    settings: Mapping[str, Any]
    """JSON: whatever decides the result."""
    model: str
    """What the manifest calls the base model: a hub id, a folder's name, or "studio"."""
    revision: str | None
    model_digest: str
    mask: str | None = None
    """Digest of the pruning mask, of the controls."""

    @property
    def provenance(self) -> dict[str, Any]:
        """JSON: where it comes from."""
        return {
            "method": self.method,
            "settings": self.settings,
            "model": self.model,
            "revision": self.revision,
            "model_digest": self.model_digest,
            "versions": versions(),
        }

    def delta(self) -> bytes:
        """The safetensors file, for `load_state_dict(load_file(path), strict=False)`."""
        return encode_delta(
            self.tensors,
            component=self.component,
            concepts=self.concepts,
            mask=self.mask,
            provenance=self.provenance,
        )

    def metadata_json(self) -> str:
        """What the card says and more, to be read by programs."""
        content = {
            "format": FORMAT,
            "form": "delta",
            "file": FILE,
            "component": self.component,
            "concepts": self.concepts,
            "mask_digest": self.mask,
            "tensors": {name: list(tensor.shape) for name, tensor in sorted(self.tensors.items())},
            **self.provenance,
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def card(self) -> str:
        """The card, in Markdown with the YAML front matter that model hubs read."""
        front_matter = {
            "base_model": self.model,
            "library_name": "diffusers",
            "pipeline_tag": "text-to-image",
            "tags": ["conceptprune", "concept-erasure", "baseline", self.method],
        }
        load = load_lines(
            "delta",
            base_model=self.model,
            revision=self.revision,
            delta_files={self.component: FILE},
        )
        return (
            card_environment()
            .get_template("baseline_card.md.jinja")
            .render(
                front_matter=yaml.safe_dump(front_matter, sort_keys=False),
                what=_WHAT[self.method],
                settings=json.dumps(self.settings, sort_keys=True, ensure_ascii=False),
                num_tensors=len(self.tensors),
                load=load,
                base_beside=is_local(self.model, self.revision),
                base_model=self.model,
                revision=self.revision,
                model_digest=self.model_digest,
                concepts=self.concepts,
                control=self.method in ("random", "magnitude"),
            )
        )
