"""Scores by CLIP: how well an image fits a text, and which of several texts fits best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from conceptprune.evaluation.scorers.base import (
    Case,
    Domain,
    Facts,
    Metric,
    Reading,
    ScorerSettings,
)
from conceptprune.evaluation.scorers.libraries import versions_of
from conceptprune.evaluation.scorers.weights import (
    Network,
    batches,
    load_network,
    load_processor,
    load_tokenizer,
    network_digest,
    pixels,
)
from conceptprune.manifest.fields import (
    Line,
    Name,
    Positive,
    PromptText,
    Some,
    concept_key,
    refuse_duplicates,
)
from conceptprune.models.images import Image

if TYPE_CHECKING:
    from conceptprune.manifest.model import FolderModel, HubModel

Embeddings = NDArray[np.float32]
"""[n, dim], each row of unit length."""


class _ClipSettings(ScorerSettings):
    """Settings of all scorers with a CLIP model."""

    model: Network
    name: Annotated[Name | None, Field(description="a name, where one scorer is used twice")] = None
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 32

    def check(self) -> Facts:
        """Check that the model exists."""
        versions = versions_of("transformers", "tokenizers", "torch", "pillow")
        return Facts(versions=versions, weights=network_digest(self.model))


class ClipSimilaritySettings(_ClipSettings):
    """Cosine similarity of image and text: the image's own prompt, or a given text."""

    scorer: Literal["clip-similarity"]
    text: Annotated[Line | None, Field(description="one line, or null for each image's prompt")] = (
        None
    )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The cosine, between -1 and 1."""
        return {"similarity": Metric(erased="lower", kept="higher")}

    def load(self, device: str) -> "ClipSimilarity":
        """The scorer with its model."""
        return ClipSimilarity(self, Clip(self.model, device, self.batch_size))


class ClipDropSettings(_ClipSettings):
    """ConceptPrune's score of an erased style: do images fit their prompts less than before?"""

    scorer: Literal["clip-drop"]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """1 if the cosine is lower than that of the base model's image, otherwise 0."""
        return {"fell": Metric(erased="higher", is_share=True)}

    @property
    def compares(self) -> bool:
        """With the base model's images."""
        return True

    def load(self, device: str) -> "ClipDrop":
        """The scorer with its model."""
        return ClipDrop(Clip(self.model, device, self.batch_size))


class ClipAccuracySettings(_ClipSettings):
    """Zero-shot classification: whether the image's label fits best of the given ones."""

    scorer: Literal["clip-accuracy"]
    domain: Domain
    labels: Annotated[Some[PromptText], Field(description="a list of labels, none of them twice")]
    template: Annotated[
        PromptText,
        Field(pattern=r"\{\}", description="a text with a gap {} for the label"),
    ] = "a photo of a {}"

    @field_validator("labels")
    @classmethod
    def _no_duplicates(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        refuse_duplicates(map(concept_key, labels), "label")
        return labels

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """1 if the image's label fits best, otherwise 0."""
        return {"accuracy": Metric(kept="higher", domain=self.domain, is_share=True)}

    def load(self, device: str) -> "ClipAccuracy":
        """The scorer with its model."""
        return ClipAccuracy(self, Clip(self.model, device, self.batch_size))


class GenderRatioSettings(_ClipSettings):
    """The share of images that CLIP classifies, zero-shot, as a woman rather than a man."""

    scorer: Literal["gender-ratio"]
    female: Annotated[PromptText, Field(description="a text of a woman")] = "a photo of a woman"
    male: Annotated[PromptText, Field(description="a text of a man")] = "a photo of a man"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """1 for a woman, 0 for a man; which direction is better depends on what is erased."""
        return {"female": Metric(is_share=True)}

    def load(self, device: str) -> "GenderRatio":
        """The scorer with its model."""
        return GenderRatio(self, Clip(self.model, device, self.batch_size))


class Clip:
    """A CLIPModel of transformers with its tokenizer and image processor."""

    def __init__(self, network: "FolderModel | HubModel", device: str, batch_size: int) -> None:
        from transformers import CLIPModel

        self._model = load_network(CLIPModel, network, device)
        self._tokenizer = load_tokenizer(network)
        self._processor = load_processor(network)
        self._device = device
        self._batch_size = batch_size

    def images(self, images: Sequence[Image]) -> Embeddings:
        """Embeddings of images."""
        return self._embed(
            images,
            lambda batch: self._model.get_image_features(
                pixel_values=pixels(self._processor, batch, self._device)
            ),
        )

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of texts; texts that are too long for the model are truncated."""
        length = self._model.config.text_config.max_position_embeddings

        def features(batch: Sequence[str]) -> Any:
            # Always padded to the same length, so that texts do not change each other's bits.
            tokens = self._tokenizer(
                list(batch),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).to(self._device)
            return self._model.get_text_features(**tokens)

        return self._embed(texts, features)

    def _embed(self, values: Sequence[Any], features: Any) -> Embeddings:
        import torch

        found = []
        with torch.no_grad():
            for batch in batches(values, self._batch_size):
                out = features(batch)
                # transformers 5 wraps what version 4 returned directly.
                vectors = getattr(out, "pooler_output", out).float()
                found.append(torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(found)


class ClipSimilarity:
    """Cosines of images and texts."""

    def __init__(self, settings: ClipSimilaritySettings, clip: Clip) -> None:
        self._settings = settings
        self._clip = clip

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image."""
        own = self._settings.text
        texts = list(dict.fromkeys(own or case.text for case in cases))
        by_text = dict(zip(texts, self._clip.texts(texts), strict=True))
        seen = self._clip.images(images)
        return [
            Reading(
                case=index,
                metric="similarity",
                value=float(seen[index] @ by_text[own or case.text]),
            )
            for index, case in enumerate(cases)
        ]


class ClipDrop:
    """Whether images fit their prompts less than the base model's images do."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image."""
        texts = self._clip.texts([case.text for case in cases])
        after = (self._clip.images(images) * texts).sum(1)
        before = (self._clip.images(references or ()) * texts).sum(1)
        return [
            Reading(case=index, metric="fell", value=float(fell))
            for index, fell in enumerate(after < before)
        ]


class ClipAccuracy:
    """Zero-shot labels of images."""

    def __init__(self, settings: ClipAccuracySettings, clip: Clip) -> None:
        self._settings = settings
        self._clip = clip
        texts = [settings.template.replace("{}", label) for label in settings.labels]
        self._texts = clip.texts(texts)

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image that has a label in the domain."""
        best = (self._clip.images(images) @ self._texts.T).argmax(1)
        labels = self._settings.labels
        known = {concept_key(label): index for index, label in enumerate(labels)}
        readings = []
        for index, case in enumerate(cases):
            label = case.label(self._settings.domain)
            if label is not None:
                right = known.get(concept_key(label))
                readings.append(
                    Reading(
                        case=index,
                        metric="accuracy",
                        value=None if right is None else float(best[index] == right),
                        seen=labels[best[index]],
                    )
                )
        return readings


class GenderRatio:
    """Whether an image is classified as a woman or a man."""

    def __init__(self, settings: GenderRatioSettings, clip: Clip) -> None:
        self._clip = clip
        self._texts = clip.texts([settings.male, settings.female])

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image."""
        female = (self._clip.images(images) @ self._texts.T).argmax(1)
        return [
            Reading(
                case=index,
                metric="female",
                value=float(seen),
                seen="woman" if seen else "man",
            )
            for index, seen in enumerate(female)
        ]
