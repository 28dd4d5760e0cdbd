"""PruningMask: the few weights that generate a concept, which can be applied to a pipeline and
removed.

mask = conceptprune.load_mask("vorla-brint.safetensors")
mask.apply(pipe)
mask.remove(pipe)

with mask.applied(pipe):  # one request of a server
    image = pipe("a lighthouse").images[0]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.digest import digest_bytes
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.masks.layer_mask import LayerMask, narrowed
from conceptprune.masks.mask_file import FORMAT, MOST_BYTES, read_mask_file, write_mask
from conceptprune.masks.switch import (
    check_weights,
    fuse,
    is_active,
    is_fused,
    is_held,
    is_zeroed,
    places,
    switch,
)
from conceptprune.models.lock import exclusively, writing
from conceptprune.models.sites import split_layer
from conceptprune.strict_reading import read_regular


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningMask:
    """Entries to zero in the linears of a denoiser and other components, and their origin.

    Masks are equal if their files are. Methods that read or change a model let one thread at a time
    do so.
    """

    concepts: tuple[str, ...]
    component: str
    """The pipeline attribute of the denoiser ("unet"), whose layers have bare module names."""
    layers: Mapping[str, LayerMask]
    """By layer name (see `sites`); every linear of the site, including those that lose nothing."""
    provenance: Mapping[str, Any]
    """JSON: model, site, settings, digests of the prompts, library versions."""
    checked: bool = True
    """Whether its file contains its own digest. Older masks have none, and stay without one, so
    that they keep their identity."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PruningMask):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"<PruningMask of {self.title:.80}: {self.num_entries:,} of {self.num_weights:,} "
            f"weights in {len(self.layers)} linears of {', '.join(self.components)}, "
            f"{self.digest[:12]}>"
        )

    @property
    def title(self) -> str:
        """The concepts, for messages."""
        return ", ".join(self.concepts)

    @property
    def model_name(self) -> str:
        """The name of the model that the mask was made for."""
        return str(self.provenance.get("model", "another model"))

    @property
    def collected_in(self) -> torch.dtype | None:
        """The floating-point type of the model when the mask was made, if recorded."""
        collection = self.provenance.get("collection")
        name = collection.get("dtype") if isinstance(collection, Mapping) else None
        dtype = getattr(torch, name, None) if isinstance(name, str) else None
        return dtype if isinstance(dtype, torch.dtype) else None

    @property
    def num_entries(self) -> int:
        """How many weights become zero."""
        return sum(len(layer.entries) for layer in self.layers.values())

    @property
    def num_weights(self) -> int:
        """How many weights the site has."""
        return sum(layer.num_weights for layer in self.layers.values())

    @property
    def density(self) -> float:
        """Pruned fraction of the site's weights."""
        return self.num_entries / self.num_weights

    def layer_density(self) -> dict[str, float]:
        """Pruned fraction of each layer's weights, by module name."""
        return {name: len(layer.entries) / layer.num_weights for name, layer in self.layers.items()}

    def on_site(self) -> "PruningMask":
        """The same mask with entries counted only in the columns of the site."""
        layers = {
            name: replace(
                layer,
                shape=(layer.shape[0], layer.shape[1] - layer.first_column),
                entries=narrowed(layer.entries, layer.shape[1], layer.first_column),
                first_column=0,
            )
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers)

    @property
    def components(self) -> tuple[str, ...]:
        """The components with layers in this mask, the denoiser first."""
        found = {split_layer(name, self.component)[0] for name in self.layers}
        return tuple(sorted(found, key=lambda name: (name != self.component, name)))

    def of_component(self, component: str) -> dict[str, LayerMask]:
        """The layers of one component, by module name."""
        located = {split_layer(name, self.component): layer for name, layer in self.layers.items()}
        return {name: layer for (part, name), layer in located.items() if part == component}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded mask: its identity."""
        return digest_bytes(self.to_bytes())

    def apply(self, pipe: Any, *, force: bool = False) -> None:
        """Zero this mask's entries in `pipe` (a pipeline or a denoiser), in place.

        Several masks may be applied at once. If an error is raised, nothing is changed. Compiled
        components, loaded LoRAs and offloading to the CPU are supported.

        Raises:
            ModelMismatchError: a layer is missing or has another shape, or (unless `force`) the
            mask was made for other weights. UserError: this mask is already applied, or the weights
            are not in memory.
        """
        with exclusively(pipe):
            if not self._switched_on(pipe, force=force):
                raise UserError(f"the mask of {self.title} is already applied")

    def _switched_on(self, pipe: Any, *, force: bool) -> bool:
        """Apply it, unless it is applied already."""
        with writing(pipe):
            found = places(pipe, self)
            if is_held(self, found) and is_zeroed(self, found):
                return False
            switch(pipe, on=[self], force=force)
            return True

    def remove(self, pipe: Any, *, force: bool = False) -> None:
        """Restore the original bytes of every entry that no other applied mask zeroes.

        If other code has written to the weights since (a fused LoRA, a delta), their right values
        are unknown and the mask stays. With `force`, entries that are still zero are restored and
        the others are left alone.

        Raises:
            UserError: this mask is not applied to `pipe`, is fused into it, or was overwritten.
        """
        with exclusively(pipe):
            switch(pipe, off=[self], force=force)

    @contextmanager
    def applied(self, pipe: Any, *, force: bool = False) -> Iterator[None]:
        """Inside the context, `pipe` lacks this mask's weights; afterwards it is as before.

        Other threads that apply or remove masks of this model wait, so that each request of a
        server generates with its own masks: `with mask.applied(pipe): pipe(prompt)`. Tasks of an
        event loop share a thread: run the whole block in `asyncio.to_thread`. `force` skips the
        check of the weights, which reads all weights of the site.

        Raises:
            ModelMismatchError, UserError: as `apply` and `remove`, or another task is inside.
        """
        with exclusively(pipe):
            mine = self._switched_on(pipe, force=force)
            try:
                yield
            finally:
                # Not `remove`: this may run in another thread, for which the model is in use.
                if mine:
                    switch(pipe, off=[self])

    def check(self, pipe: Any) -> None:
        """Check that the mask was made for the weights of `pipe`, whatever masks are applied there.

        Raises:
            ModelMismatchError: it was not.
        """
        with exclusively(pipe, reads=True):
            check_weights(self, places(pipe, self))

    def is_applied(self, pipe: Any) -> bool:
        """Whether all of this mask's entries are zero in `pipe`."""
        with exclusively(pipe, reads=True):
            return is_zeroed(self, places(pipe, self))

    def is_active(self, pipe: Any) -> bool:
        """The same, and not only because other applied masks cover all of its entries."""
        with exclusively(pipe, reads=True):
            return is_active(self, places(pipe, self))

    def is_held(self, pipe: Any) -> bool:
        """Whether it was applied and not removed, whatever happened to the weights since."""
        with exclusively(pipe, reads=True):
            return is_held(self, places(pipe, self))

    def is_fused(self, pipe: Any) -> bool:
        """Whether it must not be removed; see `conceptprune.diffusers.fuse_masks`."""
        with exclusively(pipe, reads=True):
            return is_fused(pipe, self)

    def fuse(self, pipe: Any, *, fused: bool = True) -> None:
        """Forbid removing this mask, or with `fused=False` allow it again.

        Raises:
            UserError: this mask is not applied to `pipe`.
        """
        with exclusively(pipe):
            fuse(pipe, self, fused)

    def pruned_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the pruned weights [R, W], with the entries at zero, by module name."""
        pruned = {}
        for name, layer in self.layers.items():
            if len(layer.entries):
                pruned[name] = layer.pruned(weights[name])
        return pruned

    def union(self, other: "PruningMask") -> "PruningMask":
        """The mask that prunes what either mask prunes; see `union_masks`."""
        return union_masks([self, other])

    def as_part(self) -> dict[str, Any]:
        """What a fused mask records about each mask it was made from: JSON."""
        return {"concepts": self.concepts, "digest": self.digest, "provenance": self.provenance}

    def to_bytes(self) -> bytes:
        """The mask's file; see `mask_file`."""
        header = {
            "format": FORMAT,
            "concepts": self.concepts,
            "component": self.component,
            "provenance": self.provenance,
            "layers": {name: layer.header for name, layer in self.layers.items()},
        }
        entries = {name: layer.entries for name, layer in self.layers.items()}
        return write_mask(header, entries, checked=self.checked)

    def save(self, path: Path | str) -> None:
        """Write the mask file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "PruningMask":
        """The inverse of `to_bytes`.

        Raises:
            UserError: not a mask file, or a damaged or edited one.
        """
        header, entries = read_mask_file(data)
        return cls(
            concepts=header.concepts,
            component=header.component,
            layers={
                name: LayerMask(entries=flat, **dict(header.layers[name]))
                for name, flat in entries.items()
            },
            provenance=header.provenance,
            checked=header.sha256 is not None,
        )


def load_mask(path: Path | str) -> PruningMask:
    """Read a mask file.

    Raises:
        UserError: the file is missing, is not a mask, or is damaged.
    """
    path = Path(path)
    try:
        data = read_regular(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the mask {path}: {error}") from error
    try:
        return PruningMask.from_bytes(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def union_masks(masks: Iterable[PruningMask]) -> PruningMask:
    """One mask that prunes what any of `masks` prunes.

    Raises:
        ModelMismatchError: the masks belong to different models, components or sites.
        ValueError: no mask was given.
    """
    masks = list(masks)
    if not masks:
        raise ValueError("no masks to unite")
    for mask in masks[1:]:
        check_same_weights(masks[0], mask)
    entries = {
        name: np.unique(np.concatenate([mask.layers[name].entries for mask in masks]))
        for name in masks[0].layers
    }
    parts = [mask.as_part() for mask in masks]
    return fused_mask(masks[0], parts, entries, {"how": "union"})


def check_same_weights(first: PruningMask, second: PruningMask) -> None:
    """Check that two masks can be fused.

    Raises:
        ModelMismatchError: they belong to different models, components or sites.
    """
    same_layers = second.layers.keys() == first.layers.keys() and all(
        layer.same_weight(second.layers[name]) for name, layer in first.layers.items()
    )
    if second.component != first.component or not same_layers:
        raise ModelMismatchError(
            f"the masks of {first.title} and {second.title} were made for different models or "
            "sites, or found in different precisions without the model's files"
        )


def fused_mask(
    like: PruningMask,
    parts: Sequence[Mapping[str, Any]],
    entries: Mapping[str, NDArray[np.int64]],
    fusion: Mapping[str, Any],
) -> PruningMask:
    """One mask with these `entries`, made from `parts` (`PruningMask.as_part`) by `fusion`.

    `like` is any of the masks; it supplies the model and the layers.
    """
    layers = {name: replace(layer, entries=entries[name]) for name, layer in like.layers.items()}
    return PruningMask(
        concepts=tuple(dict.fromkeys(name for part in parts for name in part["concepts"])),
        component=like.component,
        layers=layers,
        provenance={
            **{name: like.provenance.get(name) for name in ("model", "revision", "model_digest")},
            "fusion": dict(fusion),
            "masks": list(parts),
        },
    )
