"""Copy detection for memorised images: SSCD (arXiv 2202.10261), as TorchScript."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image as PilImage
from pydantic import Field, ValidationInfo, field_validator

from conceptprune.digest import digest_bytes, digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.base import Case, Facts, Metric, Reading, ScorerSettings
from conceptprune.evaluation.scorers.distribution import images_in
from conceptprune.evaluation.scorers.libraries import versions_of
from conceptprune.evaluation.scorers.weights import batches
from conceptprune.manifest.fields import Float, Positive, PromptText, beside
from conceptprune.models.images import Image, read_image
from conceptprune.strict_reading import read_regular

if TYPE_CHECKING:
    from torch import Tensor

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's, as SSCD's own instructions normalise."""
MOST_BYTES = 1 << 32
"""Limit for a TorchScript file: SSCD's largest has 0.3 GB."""


class CopiesSettings(ScorerSettings):
    """Cosine of SSCD descriptors: of an image and the base's, or the nearest in a folder.

    A TorchScript file is code, which runs when it is loaded. So the suite must name the file's
    SHA-256, and no other file is loaded.
    """

    scorer: Literal["copies"]
    torchscript: Annotated[
        PromptText, Field(description="a TorchScript file, relative to the suite")
    ]
    sha256: Annotated[
        str,
        Field(
            pattern=r"^[0-9a-f]{64}$",
            description="the SHA-256 of torchscript, as sha256sum prints it: 64 digits of 0-9a-f",
        ),
    ]
    originals: Annotated[
        PromptText | None,
        Field(description="a folder of the memorised images, or null for the base's images"),
    ] = None
    threshold: Annotated[Float, Field(ge=-1, le=1, description="a number from -1 to 1")] = 0.5
    size: Annotated[Positive, Field(description="a whole number of at least 1")] = 288
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 16

    @field_validator("torchscript", "originals")
    @classmethod
    def _relative_to_the_suite(cls, path: str | None, info: ValidationInfo) -> str | None:
        return beside(path, info) if path else path

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The cosine, and whether it is above the threshold."""
        return {
            "similarity": Metric(erased="lower", kept="higher"),
            "copied": Metric(erased="lower", kept="higher", is_share=True),
        }

    @property
    def compares(self) -> bool:
        """With the base model's images, unless there is a folder."""
        return self.originals is None

    def check(self) -> Facts:
        """Check that the file exists and has the right digest."""
        _meant(self)
        weights = {"torchscript": self.sha256}
        if self.originals is not None:
            files = {path.name: digest_file(path) for path in images_in(self.originals)}
            weights["originals"] = digest_json(files)
        return Facts(versions=versions_of("torch", "pillow"), weights=digest_json(weights))

    def load(self, device: str) -> "Copies":
        """The scorer with its network."""
        return Copies(self, device)


def _meant(settings: CopiesSettings) -> bytes:
    """The file's bytes, if they have the SHA-256 given in the suite.

    Raises:
        UserError: they do not, or cannot be read.
    """
    path = settings.torchscript
    try:
        data = read_regular(Path(path), MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"scorers: copies: {path} cannot be read: {reason}") from error
    if (found := digest_bytes(data)) != settings.sha256:
        raise UserError(
            f"scorers: copies: the SHA-256 of {path} is {found}, and the suite has "
            f"{settings.sha256}: it is another file, and is not loaded"
        )
    return data


def _loaded(settings: CopiesSettings, device: str) -> Any:
    """The network, from the very bytes that were checked: the file may change after that."""
    import torch

    try:
        return torch.jit.load(io.BytesIO(_meant(settings)), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"scorers: copies: {settings.torchscript} is not a TorchScript file: {reason:.200}"
        ) from error


class Copies:
    """Compares descriptors."""

    def __init__(self, settings: CopiesSettings, device: str) -> None:

        self._settings = settings
        self._device = device
        self._network: Any = _loaded(settings, device)
        self._originals: Tensor | None = None
        if settings.originals is not None:
            paths = images_in(settings.originals)
            self._originals = self._describe([read_image(path.read_bytes()) for path in paths])

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """Two readings per image."""
        mine = self._describe(images)
        if self._originals is None:
            cosines = (mine * self._describe(references or ())).sum(1)
        else:
            cosines = (mine @ self._originals.T).max(1).values
        readings = []
        for index, value in enumerate(cosines.tolist()):
            copied = float(value >= self._settings.threshold)
            readings.append(Reading(case=index, metric="similarity", value=value))
            readings.append(Reading(case=index, metric="copied", value=copied))
        return readings

    def _describe(self, images: Sequence[Image]) -> "Tensor":
        """Descriptors of unit length, [n, dim]."""
        import torch

        side = (self._settings.size, self._settings.size)
        found = []
        with torch.no_grad():
            for batch in batches(images, self._settings.batch_size):
                resized = np.stack(
                    [
                        np.asarray(
                            PilImage.fromarray(image).resize(side, PilImage.Resampling.BILINEAR),
                            np.float32,
                        )
                        for image in batch
                    ]
                )
                normal = (resized / 255 - MEAN) / STD
                vectors = self._network(
                    torch.from_numpy(normal).permute(0, 3, 1, 2).to(self._device)
                )
                found.append(torch.nn.functional.normalize(vectors.float(), dim=-1).cpu())
        return torch.cat(found)
