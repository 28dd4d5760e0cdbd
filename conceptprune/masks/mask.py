"""PruningMask: the few weights that draw a concept, to apply to a pipeline and to take back.

mask = conceptprune.load_mask("vorla-brint.safetensors")
mask.apply(pipe)
mask.remove(pipe)
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from torch import Tensor, nn

from conceptprune.digest import canonical_json, digest_bytes
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.masks.apply import (
    applied_masks,
    fused_masks,
    original_weight,
    restore_entries,
    set_fused,
    zero_entries,
)
from conceptprune.masks.codec import decode_entries, encode_entries
from conceptprune.models.sites import split_layer
from conceptprune.models.weights import component_of, weight_digest

FORMAT = "conceptprune.mask/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMask:
    """The pruned entries of one linear."""

    shape: tuple[int, int]
    """(rows, columns) of the weight."""
    entries: NDArray[np.int64]
    """Sorted flat indices `row * columns + column` of the entries that become zero."""
    weight_digest: str
    """`weights.weight_digest` of the weight the mask was made for."""
    first_column: int = 0
    """The site has the columns from here on; those before it take something else."""

    @property
    def num_weights(self) -> int:
        """How many of the linear's weights belong to the site."""
        rows, columns = self.shape
        return rows * (columns - self.first_column)

    def pruned(self, weight: Tensor) -> Tensor:
        """A copy of the weight [rows, columns] with the entries at zero."""
        copy = weight.clone()
        copy.view(-1)[self.entries] = 0
        return copy

    @property
    def header(self) -> dict[str, Any]:
        """What the mask file says of it beside its entries."""
        fused = {"first_column": self.first_column} if self.first_column else {}
        return {"shape": self.shape, "weight_digest": self.weight_digest, **fused}


def widened(entries: NDArray[np.int64], columns: int, first_column: int) -> NDArray[np.int64]:
    """Flat indices into a weight of `columns`, of those into its columns from `first_column` on."""
    if not first_column:
        return entries
    rows, column = np.divmod(entries, columns - first_column)
    return rows * columns + column + first_column


def narrowed(entries: NDArray[np.int64], columns: int, first_column: int) -> NDArray[np.int64]:
    """The inverse of `widened`."""
    if not first_column:
        return entries
    rows, column = np.divmod(entries, columns)
    return rows * (columns - first_column) + column - first_column


@dataclass(frozen=True, kw_only=True)
class PruningMask:
    """Entries to zero in the linears of a denoiser, of other components too, and their origin."""

    concepts: tuple[str, ...]
    component: str
    """The pipeline attribute of the denoiser ("unet"), whose layers have bare module names."""
    layers: Mapping[str, LayerMask]
    """By layer name (see `sites`); every linear of the site, also those that lose nothing."""
    provenance: Mapping[str, Any]
    """JSON: model, site, settings, prompts' digests, library versions."""

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
        """The same with entries counted in the columns of the site alone."""
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
        """The components that have layers here, the denoiser first."""
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
        """Zero this mask's entries in `pipe` (a pipeline, or the denoiser itself), in place.

        Several masks may be applied at once. Nothing is changed when an error is raised.

        Raises:
            ModelMismatchError: a layer is missing or has another shape, or (unless `force`) other
                weights than the mask was made for.
            UserError: this mask is applied already.
        """
        linears = self._linears(pipe)
        if not force:
            self._check_weights(linears)
        if any(self.digest in applied_masks(linear) for linear in linears.values()):
            raise UserError(f"the mask of {self._title()} is applied already")
        for name, linear in linears.items():
            zero_entries(linear, self.digest, self.layers[name].entries)

    def remove(self, pipe: Any) -> None:
        """Put back the original bytes of every entry that no other applied mask takes.

        Raises:
            UserError: this mask is not applied to `pipe`, or is fused into it.
        """
        linears = self._applied(pipe)
        if any(self.digest in fused_masks(linear) for linear in linears.values()):
            raise UserError(
                f"the mask of {self._title()} is fused and cannot be taken off; call "
                "conceptprune.diffusers.unfuse_masks(pipe) first"
            )
        for linear in linears.values():
            restore_entries(linear, self.digest)

    def check(self, pipe: Any) -> None:
        """Make sure that the mask was made for the weights of `pipe`, whatever is applied to them.

        Raises:
            ModelMismatchError: it was not.
        """
        self._check_weights(self._linears(pipe))

    def is_applied(self, pipe: Any) -> bool:
        """Whether `pipe` is without this mask's weights by `apply`."""
        linears = self._linears(pipe).values()
        return all(self.digest in applied_masks(linear) for linear in linears)

    def is_fused(self, pipe: Any) -> bool:
        """Whether it is not to be taken off; see `conceptprune.diffusers.fuse_masks`."""
        return any(self.digest in fused_masks(linear) for linear in self._linears(pipe).values())

    def fuse(self, pipe: Any, *, fused: bool = True) -> None:
        """Forbid to take this mask off, or with `fused=False` allow it again.

        Raises:
            UserError: this mask is not applied to `pipe`.
        """
        for linear in self._applied(pipe).values():
            set_fused(linear, self.digest, fused)

    def _applied(self, pipe: Any) -> dict[str, nn.Linear]:
        linears = self._linears(pipe)
        if not all(self.digest in applied_masks(linear) for linear in linears.values()):
            raise UserError(f"the mask of {self._title()} is not applied to this model")
        return linears

    def pruned_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the weights [R, W] that lose entries, with these at zero, by module name."""
        pruned = {}
        for name, layer in self.layers.items():
            if len(layer.entries):
                pruned[name] = layer.pruned(weights[name])
        return pruned

    def union(self, other: "PruningMask") -> "PruningMask":
        """The mask that prunes what either does; see `union_masks`."""
        return union_masks([self, other])

    def as_part(self) -> dict[str, Any]:
        """What a fused mask records of a mask it was made of: JSON."""
        return {"concepts": self.concepts, "digest": self.digest, "provenance": self.provenance}

    def _linears(self, pipe: Any) -> dict[str, nn.Linear]:
        if isinstance(pipe, nn.Module) and len(self.components) > 1:
            raise UserError(
                f"the mask of {self._title()} has layers of {' and '.join(self.components)}: "
                "apply it to the whole pipeline"
            )
        modules = {
            component: dict(component_of(pipe, component).named_modules())
            for component in self.components
        }
        linears = {}
        for name, layer in self.layers.items():
            component, module = split_layer(name, self.component)
            linear = modules[component].get(module)
            if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != layer.shape:
                found = "is missing" if linear is None else f"is {linear}"
                raise ModelMismatchError(
                    f"the mask of {self._title()} wants a linear {layer.shape} at {name}, which "
                    f"{found}: it was made for {self._model_name()}"
                )
            linears[name] = linear
        return linears

    def _check_weights(self, linears: Mapping[str, nn.Linear]) -> None:
        for name, linear in linears.items():
            if weight_digest(original_weight(linear)) != self.layers[name].weight_digest:
                raise ModelMismatchError(
                    f"the mask of {self._title()} was made for {self._model_name()}, and {name} "
                    "has other weights here; pass force=True to apply it all the same"
                )

    def _title(self) -> str:
        return ", ".join(self.concepts)

    def _model_name(self) -> str:
        return str(self.provenance.get("model", "another model"))

    def to_bytes(self) -> bytes:
        """As a safetensors file: one uint8 tensor of coded entries per layer, JSON metadata."""
        tensors = {name: encode_entries(layer.entries) for name, layer in self.layers.items()}
        header = {
            "format": FORMAT,
            "concepts": self.concepts,
            "component": self.component,
            "provenance": self.provenance,
            "layers": {name: layer.header for name, layer in self.layers.items()},
        }
        # One metadata key only: safetensors writes several in no fixed order.
        return safetensors.numpy.save(tensors, {"conceptprune": canonical_json(header)})

    def save(self, path: Path | str) -> None:
        """Write the mask file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "PruningMask":
        """The inverse of `to_bytes`.

        Raises:
            UserError: not a mask file, or entries outside a layer.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["conceptprune"])
            tensors = safetensors.numpy.load(data)
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f"not a conceptprune mask: {error}") from error
        if header.get("format") != FORMAT:
            raise UserError(
                f"a mask of format {header.get('format')!r}; this version reads {FORMAT}"
            )
        layers = {}
        for name, layer in sorted(header["layers"].items()):
            rows, columns = layer["shape"]
            entries = decode_entries(tensors[name])
            if len(entries) and entries[-1] >= rows * columns:
                raise UserError(f"damaged mask: an entry of {name} lies outside {rows} x {columns}")
            layers[name] = LayerMask(
                shape=(rows, columns),
                entries=entries,
                weight_digest=layer["weight_digest"],
                first_column=layer.get("first_column", 0),
            )
        return cls(
            concepts=tuple(header["concepts"]),
            component=header["component"],
            layers=layers,
            provenance=header["provenance"],
        )


def load_mask(path: Path | str) -> PruningMask:
    """Read a mask file.

    Raises:
        UserError: the file is missing or is not a mask.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the mask {path}: {error}") from error
    return PruningMask.from_bytes(data)


def union_masks(masks: Iterable[PruningMask]) -> PruningMask:
    """One mask that prunes what any of `masks` does.

    Raises:
        ModelMismatchError: the masks are of different models, components or sites.
        ValueError: no mask was given.
    """
    masks = list(masks)
    if not masks:
        raise ValueError("no mask to unite")
    for mask in masks[1:]:
        check_same_weights(masks[0], mask)
    entries = {
        name: np.unique(np.concatenate([mask.layers[name].entries for mask in masks]))
        for name in masks[0].layers
    }
    parts = [mask.as_part() for mask in masks]
    return fused_mask(masks[0], parts, entries, {"how": "union"})


def check_same_weights(first: PruningMask, second: PruningMask) -> None:
    """Make sure that two masks may become one.

    Raises:
        ModelMismatchError: they are of different models, components or sites.
    """
    same_layers = second.layers.keys() == first.layers.keys() and all(
        second.layers[name].weight_digest == layer.weight_digest
        for name, layer in first.layers.items()
    )
    if second.component != first.component or not same_layers:
        raise ModelMismatchError(
            f"the masks of {first._title()} and {second._title()} were made for different models "
            "or sites"
        )


def fused_mask(
    like: PruningMask,
    parts: Sequence[Mapping[str, Any]],
    entries: Mapping[str, NDArray[np.int64]],
    fusion: Mapping[str, Any],
) -> PruningMask:
    """One mask with these `entries`, made of `parts` (`PruningMask.as_part`) by `fusion`.

    `like` is any of the masks: it says what model and layers they are of.
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
