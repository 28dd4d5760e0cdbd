"""Models at a URI: fetched once per node whatever the workers do, and never half a model."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from conceptprune.errors import ManifestError, StoreError, UserError
from conceptprune.manifest import parse_manifest
from conceptprune.manifest.model import PIPELINE_FILES, RemoteModel
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models import remote
from conceptprune.models.families import identity
from conceptprune.models.hub import fetched_from_hub
from conceptprune.models.remote import fetched, listing_digest

WORKERS = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCEPTPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "place")


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were fetched, in order."""
    names: list[str] = []
    get_file = LocalFileSystem.get_file

    def get(self: Any, source: str, target: str, **more: Any) -> None:
        names.append(source)
        get_file(self, source, target, **more)

    monkeypatch.setattr(LocalFileSystem, "get_file", get)
    return names


def test_workers_that_ask_at_once_fetch_each_file_once(
    place: Path, cache: Path, fetches: list[str]
) -> None:
    (place / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    start = threading.Barrier(WORKERS)

    def worker(_: int) -> Path:
        start.wait()
        return fetched(f"file://{place}", PIPELINE_FILES)

    with ThreadPoolExecutor(WORKERS) as pool:
        (folder,) = set(pool.map(worker, range(WORKERS)))
    assert len(fetches) == len(set(fetches)) > 5
    assert folder.parent == cache
    assert identity(folder) == identity(place)
    # No pickled file is ever on the node.
    assert not list(folder.rglob("*.bin"))


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_it_is_one_copy_whatever_slash_its_uri_ends_with(
    place: Path, fetches: list[str], slash: str
) -> None:
    first = fetched(f"file://{place}", PIPELINE_FILES)
    number = len(fetches)
    assert fetched(f"file://{place}{slash}", PIPELINE_FILES) == first
    assert len(fetches) == number


def test_no_variant_of_weights_is_fetched_beside_the_plain_ones(place: Path) -> None:
    unet = "unet/diffusion_pytorch_model"
    variants = [
        f"{unet}.fp16.safetensors",
        f"{unet}.non_ema.safetensors",
        f"{unet}.fp16-00001-of-00002.safetensors",
        f"{unet}-00001-of-00002.fp16.safetensors",
        f"{unet}.safetensors.index.fp16.json",
        "text_encoder/model.fp16.safetensors",
    ]
    whole = {path.relative_to(place) for path in place.rglob("*.safetensors")}
    for variant in variants:
        (place / variant).write_bytes(b"{}")
    folder = fetched(f"file://{place}", PIPELINE_FILES)
    assert {path.relative_to(folder) for path in folder.rglob("*.safetensors")} == whole
    assert not any((folder / variant).exists() for variant in variants)
    # Shards of the plain weights stay, and a variant where there is nothing else.
    (place / f"{unet}.safetensors").rename(place / f"{unet}-00001-of-00001.safetensors")
    (place / f"{unet}.safetensors.index.json").write_bytes(b"{}")
    (place / "text_encoder/model.safetensors").unlink()
    folder = fetched(f"file://{place}", PIPELINE_FILES)
    for path in (f"{unet}-00001-of-00001.safetensors", "text_encoder/model.fp16.safetensors"):
        assert (folder / path).is_file()
    assert not (folder / variants[0]).exists()


def test_a_remote_that_falls_silent_is_given_up(
    place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    monkeypatch.setattr(LocalFileSystem, "get_file", lambda *_, **__: never.wait())
    with pytest.raises(StoreError, match=r"cannot read .* not a byte in 0\.2 s"):
        fetched(f"file://{place}", PIPELINE_FILES)
    monkeypatch.setattr(LocalFileSystem, "find", lambda *_, **__: never.wait())
    with pytest.raises(StoreError, match=r"listing it: not a byte in 0\.2 s"):
        listing_digest(f"file://{place}", PIPELINE_FILES)
    never.set()


def test_a_remote_is_waited_for_as_long_as_bytes_arrive(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    enough = threading.Event()
    get_file = LocalFileSystem.get_file

    def more(_: Path) -> int:
        nonlocal looks
        looks += 1
        # Each look is later than any limit allows, and each finds more.
        monkeypatch.setattr(remote, "SILENCE", 0.0)
        if looks > 3:
            enough.set()
        return looks

    def get(self: Any, source: str, target: str, **options: Any) -> None:
        enough.wait()
        get_file(self, source, target, **options)

    monkeypatch.setattr(remote, "_bytes_in", more)
    monkeypatch.setattr(LocalFileSystem, "get_file", get)
    assert identity(fetched(f"file://{place}", PIPELINE_FILES)) == identity(place)


def test_a_fetch_that_was_cut_short_is_begun_anew(
    place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_file = LocalFileSystem.get_file
    left = [3]

    def get(self: Any, source: str, target: str, **more: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            Path(target).write_bytes(b"half")
            raise OSError("connection lost")
        get_file(self, source, target, **more)

    monkeypatch.setattr(LocalFileSystem, "get_file", get)
    with pytest.raises(StoreError, match=r"model: cannot read file://.*connection lost"):
        fetched(f"file://{place}", PIPELINE_FILES)
    assert not any(path.is_dir() for path in cache.iterdir())
    # A process that is killed cannot clean up: what it leaves is no copy, nor part of one.
    (lock,) = cache.glob("*.lock")
    half = lock.with_suffix(".partial")
    half.mkdir()
    (half / "half").write_bytes(b"half")
    copy = fetched(f"file://{place}", PIPELINE_FILES)
    assert identity(copy) == identity(place)
    assert not (copy / "half").exists()


def test_what_changed_meanwhile_is_refused_and_later_fetched_as_another_copy(place: Path) -> None:
    uri = f"file://{place}"
    before = listing_digest(uri, PIPELINE_FILES)
    first = fetched(uri, PIPELINE_FILES, before)
    config = place / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="has changed since this job began"):
        fetched(uri, PIPELINE_FILES, before)
    assert fetched(uri, PIPELINE_FILES) != first


def test_a_place_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no file of a model"):
        listing_digest(f"file://{tmp_path}", PIPELINE_FILES)
    with pytest.raises(StoreError, match="cannot read nowhere://x"):
        listing_digest("nowhere://x", PIPELINE_FILES)


def test_a_jobs_model_at_a_uri_is_what_was_there_when_the_job_began(place: Path) -> None:
    # Unchecked: a manifest refuses this machine's own files.
    source = RemoteModel.model_construct(uri=f"file://{place}/")
    model = ModelSettings(
        source=source,
        listing=source.current_listing(),
        identity=identity(place),
        pipeline="StableDiffusionPipeline",
        dtype="float32",
        device="cpu",
    )
    assert source.label == "place"
    assert identity(model.folder()) == identity(place)
    (place / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="has changed since this job began"):
        model.folder()
    (file,) = source.local_folder(["model_index.json"]).iterdir()
    assert file.name == "model_index.json"


def test_a_manifest_names_it_by_uri() -> None:
    text = "version: 1\nmodel: {uri: '%s'}\nconcepts: [{name: x, kind: style}]"
    for uri in ("s3://bucket/a/place", "gs://b/place/", "az://c/place", "https://h:8443/place"):
        manifest = parse_manifest(text % uri, source="m.yaml", folder=Path())
        source = manifest.model
        assert isinstance(source, RemoteModel)
        assert (source.label, source.uri) == ("place", uri)
    for uri in (
        "s3://key:secret@bucket/x",
        "s3://key:secret/x",
        "bucket/x",
        "s3://b/x?versionId=1",
        "file:///etc",
        "ftp://host/x",
        "zip://a::s3://b/x",
        "s3://b/x::zip://a",
        "simplecache::s3://b/x",
        "memory://x",
        "http://h/x",
    ):
        with pytest.raises(ManifestError, match=r"model\.uri"):
            parse_manifest(text % uri, source="m.yaml", folder=Path())


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, UserError), (403, UserError), (404, UserError), (429, StoreError), (503, StoreError)],
)
def test_only_what_the_hub_refuses_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception], wrapped: bool
) -> None:
    def answer(*_: Any, **__: Any) -> str:
        response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub/a/b"))
        error = HfHubHTTPError(f"answer {status}", response=response)
        if wrapped:
            raise LocalEntryNotFoundError("no copy here") from error
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    with pytest.raises(kind, match="cannot fetch a/b at 0a from the hub"):
        fetched_from_hub("a/b", "0a", PIPELINE_FILES)


def test_what_a_hub_model_has_as_a_variant_only_is_fetched_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }

    def fetch(_: str, *, allow_patterns: list[str], ignore_patterns: list[str], **__: Any) -> str:
        for file in there:
            wanted = any(fnmatch(file, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch(file, pattern) for pattern in ignore_patterns):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    folder = fetched_from_hub("a/b", "0a", PIPELINE_FILES)
    fetched = {path.relative_to(folder).as_posix() for path in folder.glob("**/*.*")}
    assert fetched == there - {"vae/diffusion_pytorch_model.fp16.safetensors"}


def test_a_hub_that_is_out_of_reach_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any, **__: Any) -> str:
        raise httpx2.ConnectError("nobody answers")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nobody)
    with pytest.raises(StoreError, match="nobody answers"):
        fetched_from_hub("a/b", "0a", PIPELINE_FILES)
