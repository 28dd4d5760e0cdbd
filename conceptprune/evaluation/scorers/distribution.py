"""The distance between two sets of images: FID (arXiv 1706.08500) and KID (arXiv 1801.01401).

Computed by torchmetrics, on the features of torch-fidelity's Inception network or of any vision
model of transformers.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import NumericalError, UserError
from conceptprune.evaluation.bootstrap import LEVEL
from conceptprune.evaluation.scorers.base import Facts, Metric, ScorerSettings, SetReading
from conceptprune.evaluation.scorers.features import FeatureNetwork
from conceptprune.evaluation.scorers.libraries import require, versions_of
from conceptprune.evaluation.scorers.weights import OptionalNetwork, batches, network_digest
from conceptprune.manifest.fields import Int, Name, Positive, PromptText, Seed, beside
from conceptprune.models.images import Image, read_image

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
INCEPTION_SIZE = 2048
INSTALL = (
    "pip install torch-fidelity, which fetches Inception's weights; or name a feature network "
    "with features: {folder: ...}"
)


class DistributionSettings(ScorerSettings):
    """FID and KID against the base's images of the same prompts, or a folder's images."""

    scorer: Literal["fid", "kid"]
    features: OptionalNetwork = None
    """None means Inception."""
    reference: Annotated[
        PromptText | None,
        Field(description="a folder of images relative to the suite, or null for the base"),
    ] = None
    name: Annotated[Name | None, Field(description="a name, where one scorer is used twice")] = None
    resamples: Annotated[
        Int, Field(ge=10, le=10_000, description="a whole number from 10 to 10000")
    ] = 50
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 32

    @field_validator("reference")
    @classmethod
    def _relative_to_the_suite(cls, folder: str | None, info: ValidationInfo) -> str | None:
        return beside(folder, info) if folder else folder

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """One number for the whole group, under the scorer's own name."""
        return {self.scorer: Metric(kept="lower")}

    @property
    def compares(self) -> bool:
        """With the base model's images, unless there is a folder."""
        return self.reference is None

    @property
    def of_sets(self) -> bool:
        """True: its number describes the whole set."""
        return True

    def check(self) -> Facts:
        """Check that torchmetrics, the feature network and the folder exist."""
        require("torchmetrics", self.scorer)
        names = ["torchmetrics", "torch", "transformers"]
        if self.features is None:
            require("torch_fidelity", self.scorer, INSTALL)
            names[-1] = "torch-fidelity"
        parts = {} if self.features is None else {"features": network_digest(self.features)}
        if self.reference is not None:
            files = {path.name: digest_file(path) for path in images_in(self.reference)}
            parts["reference"] = digest_json(files)
        return Facts(versions=versions_of(*names), weights=digest_json(parts) if parts else None)

    def load(self, device: str) -> "Distribution":
        """The scorer with its feature network."""
        if self.features is not None:
            return Distribution(
                self, FeatureNetwork(self.features, device, self.batch_size).vectors
            )
        return Distribution(self, _inception(device, self.batch_size))


class Distribution:
    """FID or KID of two sets, with a bootstrap over the images of both."""

    def __init__(
        self,
        settings: DistributionSettings,
        vectors: "Callable[[Iterable[Image]], Tensor]",
    ) -> None:
        self._settings = settings
        self._vectors = vectors
        self._reference: Tensor | None = None

    def score_sets(
        self, images: Iterable[Image], references: Iterable[Image]
    ) -> Mapping[str, SetReading]:
        """The number, and percentiles of it over resampled images.

        A resample repeats images, so both numbers are slightly higher there. The interval is
        shifted back by this difference (the bootstrap's own estimate of bias).

        Raises:
            NumericalError: it is NaN, because there are too few images.
        """
        mine = self._vectors(images)
        if self._settings.reference is None:
            theirs = self._vectors(references)
        else:
            if self._reference is None:
                paths = images_in(self._settings.reference)
                self._reference = self._vectors(read_image(path.read_bytes()) for path in paths)
            theirs = self._reference
        value = self._distance(mine, theirs)
        if not np.isfinite(value):
            raise NumericalError(f"{self._settings.scorer} of {len(mine)} images is {value}")
        generator = np.random.Generator(np.random.PCG64(self._settings.seed))
        drawn = np.array(
            [
                self._distance(
                    mine[generator.integers(0, len(mine), len(mine))],
                    theirs[generator.integers(0, len(theirs), len(theirs))],
                )
                for _ in range(self._settings.resamples)
            ]
        )
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail]) - (drawn.mean() - value)
        reading = SetReading(value=value, low=float(low), high=float(high))
        return {self._settings.scorer: reading}

    def _distance(self, mine: "Tensor", theirs: "Tensor") -> float:
        import torch

        metric = self._metric(len(mine), len(theirs), mine.shape[1])
        metric.update(theirs, real=True)
        metric.update(mine, real=False)
        # KID samples from torch's global generator; even with all images, it decides the order of
        # sums.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._settings.seed)
            found = metric.compute()
        return float(found if self._settings.scorer == "fid" else found[0])

    def _metric(self, num_mine: int, num_theirs: int, size: int) -> Any:
        """The metric of torchmetrics, over features that are already computed."""
        from torch import nn
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        network = nn.Identity()
        network.num_features = size  # type: ignore[assignment]
        if self._settings.scorer == "fid":
            return FrechetInceptionDistance(feature=network)
        # One subset with all images: the unbiased estimate itself, without random subsets.
        return KernelInceptionDistance(
            feature=network, subsets=1, subset_size=min(num_mine, num_theirs)
        )


def images_in(folder: str) -> list[Path]:
    """The image files in a folder, by name.

    Raises:
        UserError: there are fewer than two.
    """
    path = Path(folder)
    found = sorted(file for file in path.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < 2:
        raise UserError(
            f"scorers: {path} has {len(found)} images on this machine: give two or more"
        )
    return found


def _inception(device: str, batch_size: int) -> "Callable[[Iterable[Image]], Tensor]":
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3(
        name="inception-v3-compat", features_list=[str(INCEPTION_SIZE)]
    ).to(device)

    def vectors(images: Iterable[Image]) -> "Tensor":
        import torch

        found = []
        # Images of a folder may have any size; only equal sizes can share a batch.
        for _, alike in groupby(images, lambda image: image.shape):
            for batch in batches(alike, batch_size):
                pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
                with torch.no_grad():
                    found.append(network(pixels.to(device)).cpu())
        return torch.cat(found)

    return vectors
