"""Any image classifier of transformers (also of timm, if installed): top-1 and top-5."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

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
    network_digest,
    pixels,
)
from conceptprune.manifest.fields import Name, Positive, concept_key
from conceptprune.models.images import Image

TOP = 5


class ClassifierSettings(ScorerSettings):
    """Accuracy on the labels that images should have, in one domain."""

    scorer: Literal["classifier"]
    model: Network
    name: Annotated[Name | None, Field(description="a name, where one scorer is used twice")] = None
    domain: Domain = "object"
    classes: Annotated[
        dict[Name, Name],
        Field(
            default_factory=dict,
            description="label in the suite: name of the classifier's class, where they differ",
        ),
    ]
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 32

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """1 if the label is the first, or among the first five; otherwise 0."""
        accuracy = Metric(kept="higher", domain=self.domain, is_share=True)
        return {"top-1 accuracy": accuracy, f"top-{TOP} accuracy": accuracy}

    def check(self) -> Facts:
        """Check that the model exists."""
        versions = versions_of("transformers", "timm", "torch", "pillow")
        return Facts(versions=versions, weights=network_digest(self.model))

    def load(self, device: str) -> "Classifier":
        """The scorer with its model."""
        return Classifier(self, device)


class Classifier:
    """Compares a classifier's top classes with the label that an image should have."""

    def __init__(self, settings: ClassifierSettings, device: str) -> None:
        from transformers import AutoModelForImageClassification

        self._settings = settings
        self._device = device
        self._model = load_network(AutoModelForImageClassification, settings.model, device)
        self._processor = load_processor(settings.model)
        self._names: dict[int, str] = {
            int(index): name for index, name in self._model.config.id2label.items()
        }
        # ImageNet's names are lists of synonyms: "tench, Tinca tinca".
        self._classes: dict[str, int] = {}
        for index, name in sorted(self._names.items()):
            for synonym in (name, *name.split(",")):
                self._classes.setdefault(concept_key(synonym), index)

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """Two readings per image that has a label in the domain.

        They have no value if the classifier has no class of that name.
        """
        readings = []
        for index, (case, first) in enumerate(zip(cases, self._first(images), strict=True)):
            label = case.label(self._settings.domain)
            if label is None:
                continue
            wanted = self._classes.get(concept_key(self._settings.classes.get(label, label)))
            for metric, number in (("top-1 accuracy", 1), (f"top-{TOP} accuracy", TOP)):
                readings.append(
                    Reading(
                        case=index,
                        metric=metric,
                        value=None if wanted is None else float(wanted in first[:number]),
                        seen=", ".join(self._names[each] for each in first[:number]),
                    )
                )
        return readings

    def _first(self, images: Sequence[Image]) -> list[list[int]]:
        """The top classes of each image, the most likely first."""
        import torch

        found: list[list[int]] = []
        with torch.no_grad():
            for batch in batches(images, self._settings.batch_size):
                logits: Any = self._model(pixels(self._processor, batch, self._device)).logits
                found += logits.topk(min(TOP, logits.shape[-1])).indices.tolist()
        return found
