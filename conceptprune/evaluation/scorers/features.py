"""Feature networks: a vision model's features of images, as one vector or layer by layer."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from conceptprune.evaluation.scorers.weights import batches, load_network, load_processor, pixels
from conceptprune.models.images import Image

if TYPE_CHECKING:
    from torch import Tensor

    from conceptprune.manifest.model import FolderModel, HubModel


class FeatureNetwork:
    """A vision model of transformers: CLIP's image tower, or any with hidden states."""

    def __init__(self, network: "FolderModel | HubModel", device: str, batch_size: int) -> None:
        from transformers import AutoModel

        model = load_network(AutoModel, network, device)
        # Only the image tower of a CLIP-like model, because the whole model also needs texts.
        self._model = getattr(model, "vision_model", model)
        self._processor = load_processor(network)
        self._device = device
        self._batch_size = batch_size

    def vectors(self, images: Iterable[Image]) -> "Tensor":
        """One vector per image, [n, dim] float32 on the host."""
        import torch

        found = []
        for out in self._outputs(images):
            pooled = getattr(out, "pooler_output", None)
            if pooled is None:
                pooled = out.last_hidden_state.mean(1)
            found.append(pooled.flatten(1).float().cpu())
        return torch.cat(found)

    def layers(self, images: Iterable[Image]) -> "list[Tensor]":
        """Each layer's features at each position, [n, places, channels] float32 on the host."""
        import torch

        parts: list[list[Tensor]] = []
        for out in self._outputs(images):
            # Transformers have [n, tokens, channels], convolutions [n, channels, h, w].
            parts.append(
                [
                    (layer.flatten(2).transpose(1, 2) if layer.dim() == 4 else layer).float().cpu()
                    for layer in out.hidden_states
                ]
            )
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _outputs(self, images: Iterable[Image]) -> Iterator[Any]:
        import torch

        for batch in batches(images, self._batch_size):
            with torch.no_grad():
                yield self._model(
                    pixel_values=pixels(self._processor, batch, self._device),
                    output_hidden_states=True,
                    return_dict=True,
                )
