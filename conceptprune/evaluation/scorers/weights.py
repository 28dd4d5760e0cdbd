"""Networks of scorers, from a local folder or a pinned hub revision, as safetensors only."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag
from safetensors import SafetensorError, safe_open

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.manifest.model import FolderModel, HubModel
from conceptprune.models.images import Image

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
"""Files that are downloaded from the hub and included in the digest; no pickled checkpoints."""
ONE_NETWORK = "a section with folder, or hub and revision"
T = TypeVar("T")


def _tag(value: Any) -> str | None:
    if value is None:
        return "<null>"
    has = value.__contains__ if isinstance(value, dict) else lambda key: hasattr(value, key)
    given = [key for key in ("folder", "hub") if has(key)]
    return f"<{given[0]}>" if len(given) == 1 else None


Network = Annotated[
    Annotated[FolderModel, Tag("<folder>")] | Annotated[HubModel, Tag("<hub>")],
    Discriminator(
        _tag,
        custom_error_type="manifest",
        custom_error_message=ONE_NETWORK,
        custom_error_context={"problems": (((), ONE_NETWORK),)},
    ),
    Field(description=ONE_NETWORK),
]
# Not `Network | None`: a union's members must be hashable, which a discriminator is not.
OptionalNetwork = Annotated[
    Annotated[FolderModel, Tag("<folder>")]
    | Annotated[HubModel, Tag("<hub>")]
    | Annotated[None, Tag("<null>")],
    Discriminator(
        _tag,
        custom_error_type="manifest",
        custom_error_message=ONE_NETWORK,
        custom_error_context={"problems": (((), ONE_NETWORK),)},
    ),
    Field(description=f"null, or {ONE_NETWORK}"),
]


def network_folder(network: FolderModel | HubModel) -> Path:
    """The network's folder on this machine; one of the hub is fetched once per machine.

    Raises:
        UserError: there is no such folder or no safetensors file in it, or the hub cannot be
            reached.
    """
    if isinstance(network, FolderModel):
        folder = Path(network.folder)
    else:
        # Imported here because it is slow to import, and only a hub model needs it.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    network.hub, revision=network.revision, allow_patterns=list(FILES)
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"scorers: cannot fetch {network.hub} at {network.revision} from the hub: {error}"
            ) from error
    if not folder.is_dir() or not any(folder.glob("*.safetensors")):
        raise UserError(
            f"scorers: {folder} has no safetensors file on this machine; pickled checkpoints are "
            "not read: convert them first"
        )
    return folder


def network_digest(network: FolderModel | HubModel) -> str:
    """SHA-256 over the network's files.

    Raises:
        UserError: as `network_folder`, or a file with weights is damaged.
    """
    folder = network_folder(network)
    files = sorted(path for pattern in FILES for path in folder.glob(pattern))
    for path in files:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy") as stream:
                    stream.keys()
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"scorers: {path} is damaged or not a safetensors file ({error}): fetch "
                    "it again"
                ) from error
    return digest_json({path.name: digest_file(path) for path in files})


def load_network(auto_class: Any, network: FolderModel | HubModel, device: str) -> Any:
    """Load the network by a transformers class, in float32, for inference only.

    Raises:
        UserError: the files do not contain such a network.
    """
    # Imported here because it imports torch.
    from conceptprune.models.components import check_told, quiet

    folder = network_folder(network)
    with _told_as_input(f"cannot load {folder}"), quiet():
        model, told = auto_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Reported below, by name.
            ignore_mismatched_sizes=True,
        )
    pooler = {name for name in told["missing_keys"] if name.startswith("pooler.")}
    if pooler:
        # Networks trained without a pooler: its random initial weights are meaningless.
        model.pooler = None
    check_told({**told, "missing_keys": set(told["missing_keys"]) - pooler}, folder)
    return model.float().to(device).eval()


def load_processor(network: FolderModel | HubModel) -> Any:
    """The image processor of a network, the same whether torchvision is installed or not.

    Raises:
        UserError: the folder has none.
    """
    from transformers import AutoImageProcessor

    folder = network_folder(network)
    with _told_as_input(f"{folder} has no image processor"):
        return AutoImageProcessor.from_pretrained(
            folder, use_fast=False, local_files_only=True, trust_remote_code=False
        )


def load_tokenizer(network: FolderModel | HubModel) -> Any:
    """The tokenizer of a network.

    Raises:
        UserError: the folder has none.
    """
    from transformers import AutoTokenizer

    folder = network_folder(network)
    with _told_as_input(f"{folder} has no tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _told_as_input(what: str) -> Iterator[None]:
    """Turn what a library raises for a folder into one line: a wrong config can raise anything."""
    try:
        yield
    except Exception as error:
        raise UserError(f"scorers: {what}: {' '.join(str(error).split())}") from error


def pixels(processor: Any, images: Sequence[Image], device: str) -> "Tensor":
    """Images as the input of a network, [n, 3, h, w]."""
    batch: Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return batch.to(device)


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive parts of at most `size`; only one of them is held at a time."""
    left = iter(values)
    while part := list(islice(left, size)):
        yield part
