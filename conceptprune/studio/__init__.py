"""A small text-to-image model that ships with the project, to see erasure work on."""

from pathlib import Path

LABEL = "studio"
"""Its name in manifests, masks and cards."""


def model_path() -> Path:
    """Folder of the shipped StableDiffusionPipeline, for `from_pretrained`."""
    return Path(__file__).parent / "model"
