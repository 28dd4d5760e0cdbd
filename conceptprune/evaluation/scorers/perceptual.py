"""The perceptual distance of an image from the base model's: LPIPS (arXiv 1801.03924)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from conceptprune.evaluation.scorers.base import Case, Facts, Metric, Reading, ScorerSettings
from conceptprune.evaluation.scorers.features import FeatureNetwork
from conceptprune.evaluation.scorers.libraries import require, versions_of
from conceptprune.evaluation.scorers.weights import Network, batches, network_digest
from conceptprune.manifest.fields import Name, Positive
from conceptprune.models.images import Image

if TYPE_CHECKING:
    from torch import Tensor

METRIC = "distance"
INSTALL = (
    "pip install torchvision in the build that fits torch, which fetches the network's weights; "
    "or name a feature network of your own with scorer: perceptual"
)


class LpipsSettings(ScorerSettings):
    """LPIPS as published: a network of torchvision with the linear weights of torchmetrics."""

    scorer: Literal["lpips"]
    network: Literal["alex", "vgg", "squeeze"] = "alex"
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 8

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The distance from the base model's image of the same prompt and seed."""
        return {METRIC: Metric(kept="lower")}

    @property
    def compares(self) -> bool:
        """With the base model's images."""
        return True

    def check(self) -> Facts:
        """Check that torchmetrics and torchvision are installed."""
        require("torchmetrics", "lpips")
        require("torchvision", "lpips", INSTALL)
        return Facts(versions=versions_of("torchmetrics", "torchvision", "torch"))

    def load(self, device: str) -> "Lpips":
        """The scorer with its network."""
        from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

        def distance(left: "Tensor", right: "Tensor") -> "Tensor":
            found: Tensor = learned_perceptual_image_patch_similarity(
                left.to(device), right.to(device), self.network, reduction="none", normalize=True
            )
            return found.flatten().cpu()

        return Lpips(distance, self.batch_size)


class PerceptualSettings(ScorerSettings):
    """The same distance without learnt linear weights, on the features of any vision model."""

    scorer: Literal["perceptual"]
    features: Network
    name: Annotated[Name | None, Field(description="a name, where one scorer is used twice")] = None
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 8

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The distance from the base model's image of the same prompt and seed."""
        return {METRIC: Metric(kept="lower")}

    @property
    def compares(self) -> bool:
        """With the base model's images."""
        return True

    def check(self) -> Facts:
        """Check that the network exists."""
        versions = versions_of("transformers", "torch", "pillow")
        return Facts(versions=versions, weights=network_digest(self.features))

    def load(self, device: str) -> "Perceptual":
        """The scorer with its network."""
        return Perceptual(FeatureNetwork(self.features, device, self.batch_size))


class Lpips:
    """Distances of image pairs, each [n, 3, h, w] in 0..1, by a function of both."""

    def __init__(self, distance: Any, batch_size: int) -> None:
        self._distance = distance
        self._batch_size = batch_size

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image."""
        pairs = list(zip(images, references or (), strict=True))
        values: list[float] = []
        for batch in batches(pairs, self._batch_size):
            left, right = (_unit([pair[side] for pair in batch]) for side in (0, 1))
            values += self._distance(left, right).tolist()
        return [
            Reading(case=index, metric=METRIC, value=value) for index, value in enumerate(values)
        ]


class Perceptual:
    """Distances in feature space: LPIPS' equation 1 with all linear weights set to one.

    Channels are normalised to unit length at each position; squared differences are summed over
    channels, and averaged over positions and layers.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self._network = network

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """One reading per image."""
        import torch
        from torch.nn.functional import normalize

        sides = [self._network.layers(side) for side in (images, references or ())]
        layers = [
            (normalize(left, dim=-1) - normalize(right, dim=-1)).square().sum(-1).mean(-1)
            for left, right in zip(*sides, strict=True)
        ]
        values = torch.stack(layers).mean(0).tolist()
        return [
            Reading(case=index, metric=METRIC, value=value) for index, value in enumerate(values)
        ]


def _unit(images: Sequence[Image]) -> "Tensor":
    """Images as [n, 3, h, w] in 0..1."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
