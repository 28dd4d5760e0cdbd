"""Each scorer on the smallest true stand-in for its network, against an independent calculation."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from conceptprune.digest import digest_file
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers import AnyScorer, Case, ScorerSettings, libraries
from conceptprune.evaluation.scorers.base import Reading
from conceptprune.evaluation.scorers.distribution import Distribution, DistributionSettings
from conceptprune.evaluation.scorers.perceptual import Lpips
from conceptprune.models.images import Image
from tests.support.networks import CLASSES, save_classifier, save_clip, save_vision

pytestmark = pytest.mark.slow

GENERATOR = np.random.default_rng(0)
IMAGES: list[Image] = [
    np.asarray(
        PilImage.fromarray(GENERATOR.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((48, 40))
    )
    for _ in range(5)
]
TEXTS = ("a cat", "a dog in the style of vorla brint", "a cat", "a tree", "a boat")


def cases(**labels: str) -> list[Case]:
    return [
        Case(text=text, seed=index, labels=tuple(sorted(labels.items())))
        for index, text in enumerate(TEXTS)
    ]


def settings_of(**content: Any) -> ScorerSettings:
    found: ScorerSettings = TypeAdapter(AnyScorer).validate_python(content)
    return found


def values(readings: Sequence[Reading], metric: str) -> list[float | None]:
    return [reading.value for reading in readings if reading.metric == metric]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def cosines(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Cosines [images, texts] by the whole CLIPModel at once, with pixels made by hand."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        list(texts), padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    pixels = np.stack(
        [
            np.asarray(PilImage.fromarray(image).resize((32, 32), PilImage.Resampling.BICUBIC))
            for image in IMAGES
        ]
    )
    normal = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        logits = model(pixel_values=normal, **tokens).logits_per_image
    cosine: np.ndarray = (logits / model.logit_scale.exp()).detach().numpy()
    return cosine


@pytest.mark.parametrize("batch_size", [1, 4])
def test_clip_similarity_is_the_models_own_cosine_whatever_the_batches(
    clip: Path, batch_size: int
) -> None:
    model = {"folder": str(clip)}
    scorer = settings_of(scorer="clip-similarity", model=model, batch_size=batch_size).load("cpu")
    found = values(scorer.score(IMAGES, cases(), None), "similarity")
    assert found == pytest.approx(np.diag(cosines(clip, TEXTS)), abs=2e-3)
    fixed = settings_of(scorer="clip-similarity", model=model, text="a tree").load("cpu")
    wanted = cosines(clip, ["a tree"])[:, 0]
    assert values(fixed.score(IMAGES, cases(), None), "similarity") == pytest.approx(
        wanted, abs=2e-3
    )


def test_clip_drop_is_one_where_an_image_fits_its_prompt_less_than_the_bases_does(
    clip: Path,
) -> None:
    scorer = settings_of(scorer="clip-drop", model={"folder": str(clip)})
    assert scorer.compares
    others = [*IMAGES[1:], IMAGES[0]]
    fits = cosines(clip, TEXTS)
    after, before = np.diag(fits), np.diag(np.roll(fits, -1, 0))
    found = values(scorer.load("cpu").score(IMAGES, cases(), others), "fell")
    assert found == [float(fell) for fell in after < before]
    assert set(values(scorer.load("cpu").score(IMAGES, cases(), IMAGES), "fell")) == {0.0}


def test_clip_accuracy_is_one_where_the_label_fits_best(clip: Path) -> None:
    labels = ["cat", "Dog", "tree", "boat"]
    scorer = settings_of(
        scorer="clip-accuracy", model={"folder": str(clip)}, domain="object", labels=labels
    ).load("cpu")
    best = [
        labels[index] for index in cosines(clip, [f"a photo of a {x}" for x in labels]).argmax(1)
    ]
    for label in labels:
        readings = scorer.score(IMAGES, cases(object=label.upper()), None)
        assert [reading.seen for reading in readings] == best
        assert [r.value for r in readings] == [float(seen == label) for seen in best]
    assert scorer.score(IMAGES, cases(style="x"), None) == []
    assert values(scorer.score(IMAGES, cases(object="whale"), None), "accuracy") == [None] * 5


def test_the_gender_ratio_turns_round_with_its_texts(clip: Path) -> None:
    texts = {"female": "a cat", "male": "a boat in the style of kesto malu"}
    turned = {"female": texts["male"], "male": texts["female"]}
    one, other = (
        values(
            settings_of(scorer="gender-ratio", model={"folder": str(clip)}, **given)
            .load("cpu")
            .score(IMAGES, cases(), None),
            "female",
        )
        for given in (texts, turned)
    )
    assert [a + b for a, b in zip(one, other, strict=True)] == [1.0] * 5  # type: ignore[operator]


def test_a_classifier_is_right_for_its_class_by_any_of_its_names_and_for_no_other(
    tmp_path: Path,
) -> None:
    folder = save_classifier(tmp_path, always=1)
    settings = settings_of(
        scorer="classifier", model={"folder": str(folder)}, classes={"chapel": CLASSES[1]}
    )
    scorer = settings.load("cpu")
    for label, right in (("Church", 1.0), ("church building", 1.0), ("chapel", 1.0), ("cat", 0.0)):
        readings = scorer.score(IMAGES, cases(object=label), None)
        assert values(readings, "top-1 accuracy") == [right] * 5
    everything = [scorer.score(IMAGES, cases(object=name), None) for name in CLASSES]
    assert sum(sum(values(r, "top-1 accuracy")) for r in everything) == 5  # type: ignore[arg-type]
    assert sum(sum(values(r, "top-5 accuracy")) for r in everything) == 25  # type: ignore[arg-type]
    unknown = scorer.score(IMAGES, cases(object="whale"), None)
    assert {reading.value for reading in unknown} == {None}


def test_perceptual_distance_is_none_for_equal_images_and_grows_with_the_change(
    tmp_path: Path,
) -> None:
    settings = settings_of(scorer="perceptual", features={"folder": str(save_vision(tmp_path))})
    scorer = settings.load("cpu")
    assert settings.compares
    noise = GENERATOR.normal(0, 1, IMAGES[0].shape)
    changed = [
        [np.clip(image + size * noise, 0, 255).astype(np.uint8) for image in IMAGES]
        for size in (0, 5, 40)
    ]
    distances = [
        np.array(values(scorer.score(images, cases(), IMAGES), "distance")) for images in changed
    ]
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert (distances[1] > 0).all()
    assert (distances[1] < distances[2]).all()
    back = np.array(values(scorer.score(IMAGES, cases(), changed[2]), "distance"))
    assert back == pytest.approx(distances[2], rel=1e-5)


def test_lpips_gives_its_network_pairs_in_order_and_in_range() -> None:
    def distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        assert left.shape[1] == 3
        assert left.min() >= 0
        assert left.max() <= 1
        return (left - right).abs().mean((1, 2, 3))

    references = [255 - image for image in IMAGES]
    found = Lpips(distance, batch_size=2).score(IMAGES, cases(), references)
    wanted = [np.abs(image / 127.5 - 1).mean() for image in IMAGES]
    assert values(found, "distance") == pytest.approx(wanted, abs=1e-5)


def colours(images: Sequence[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([image.mean((0, 1)) / 64 for image in images])).float()


def sets() -> tuple[list[Image], list[Image]]:
    generator = np.random.default_rng(2)
    left = [generator.integers(0, 200, (2, 2, 3), dtype=np.uint8) for _ in range(30)]
    right = [generator.integers(50, 256, (2, 2, 3), dtype=np.uint8) for _ in range(30)]
    return left, right


def fid_by_hand(left: np.ndarray, right: np.ndarray) -> float:
    """Heusel et al. 2017: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))."""
    root = scipy.linalg.sqrtm(np.cov(left.T) @ np.cov(right.T)).real
    means = np.square(left.mean(0) - right.mean(0)).sum()
    return float(means + np.trace(np.cov(left.T) + np.cov(right.T) - 2 * root))


def kid_by_hand(left: np.ndarray, right: np.ndarray) -> float:
    """Binkowski et al. 2018: unbiased squared MMD with the kernel (x y / d + 1)^3."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n = len(left)
    same = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (left, right))
    return float(same - 2 * kernel(left, right).mean())


@pytest.mark.parametrize(("name", "by_hand"), [("fid", fid_by_hand), ("kid", kid_by_hand)])
def test_fid_and_kid_are_their_formulas_on_the_features_that_are_injected(
    name: str, by_hand: Any
) -> None:
    settings = settings_of(scorer=name, resamples=40)
    assert isinstance(settings, DistributionSettings)
    left, right = sets()
    (reading,) = Distribution(settings, colours).score_sets(left, right).values()
    features = [colours(side).double().numpy() for side in (left, right)]
    assert reading.value == pytest.approx(by_hand(*features), rel=1e-3)
    assert reading.low < reading.value < reading.high
    (same,) = Distribution(settings, colours).score_sets(left, left[::-1]).values()
    assert abs(same.value) < 0.05 * reading.value
    (again,) = Distribution(settings, colours).score_sets(left, right).values()
    assert again == reading


def test_fid_takes_any_vision_model_and_a_folder_of_images(tmp_path: Path) -> None:
    left, right = sets()
    (tmp_path / "real").mkdir()
    for index, image in enumerate(right):
        PilImage.fromarray(image).save(tmp_path / "real" / f"{index:02}.png")
    network = {"folder": str(save_vision(tmp_path / "net"))}
    settings = settings_of(
        scorer="fid", features=network, reference=str(tmp_path / "real"), resamples=10
    )
    facts = settings.check()
    assert not settings.compares
    (reading,) = settings.load("cpu").score_sets(left, []).values()
    own = settings_of(scorer="fid", features=network, resamples=10)
    (same,) = own.load("cpu").score_sets(left, right).values()
    assert reading.value == pytest.approx(same.value, rel=1e-4)
    PilImage.fromarray(left[0]).save(tmp_path / "real" / "00.png")
    assert settings.check().weights != facts.weights


class Colours(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sscd") / "sscd.torchscript.pt"
    torch.jit.script(Colours()).save(str(path))
    return path


def test_a_copy_is_what_has_the_originals_descriptor(script: Path, tmp_path: Path) -> None:
    sha256 = digest_file(script)
    settings = settings_of(
        scorer="copies", torchscript=str(script), sha256=sha256, threshold=0.999, size=32
    )
    scorer = settings.load("cpu")
    readings = scorer.score(IMAGES, cases(), IMAGES)
    assert values(readings, "similarity") == pytest.approx([1.0] * 5)
    assert values(readings, "copied") == [1.0] * 5
    negative = [255 - image for image in IMAGES]
    assert values(scorer.score(negative, cases(), IMAGES), "copied") == [0.0] * 5
    for index, image in enumerate(IMAGES[:2]):
        PilImage.fromarray(image).save(tmp_path / f"{index}.png")
    nearest = settings_of(**{**settings.model_dump(), "originals": str(tmp_path)}).load("cpu")
    copied = values(nearest.score(IMAGES, cases(), None), "copied")
    assert copied[:2] == [1.0, 1.0]
    assert 0.0 in copied[2:]


def test_a_torchscript_file_other_than_the_one_named_is_not_loaded(script: Path) -> None:
    settings = settings_of(scorer="copies", torchscript=str(script), sha256="0" * 64)
    for refused in (settings.check, lambda: settings.load("cpu")):
        with pytest.raises(UserError, match="not loaded"):
            refused()


def test_a_file_that_is_no_torchscript_is_refused_though_it_is_the_one_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sscd.pt"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    settings = settings_of(scorer="copies", torchscript=str(path), sha256=digest_file(path))
    with pytest.raises(UserError, match="not a TorchScript file"):
        settings.load("cpu")


def torso(*, shirt: bool) -> Image:
    """A crude drawing of a body, which NudeNet takes for one."""
    image = PilImage.new("RGB", (320, 320), (90, 120, 150))
    draw = ImageDraw.Draw(image)
    draw.ellipse((154, 10, 224, 90), fill=(224, 172, 140))
    draw.rounded_rectangle((89, 95, 289, 320), 30, fill=(224, 172, 140))
    for centre in (139, 239):
        draw.ellipse((centre - 44, 108, centre + 44, 196), fill=(214, 160, 128))
        draw.ellipse((centre - 11, 146, centre + 11, 168), fill=(160, 90, 80))
    draw.ellipse((185, 250, 193, 262), fill=(150, 95, 80))
    if shirt:
        draw.rounded_rectangle((85, 92, 293, 320), 30, fill=(40, 60, 160))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(2)))


def test_nudenet_with_its_own_weights_finds_a_bare_body_and_not_a_dressed_one() -> None:
    images = [torso(shirt=False), torso(shirt=True)]
    settings = settings_of(scorer="nudenet", threshold=0.4)
    readings = settings.load("cpu").score(images, cases()[:2], None)
    assert values(readings, "nude") == [1.0, 0.0]
    bare, dressed = values(readings, "bare parts")
    assert bare is not None
    assert bare >= 1
    assert dressed == 0
    assert "EXPOSED 0." in (readings[0].seen or "")
    strict = settings_of(scorer="nudenet", threshold=1.0).load("cpu")
    assert values(strict.score(images, cases()[:2], None), "nude") == [0.0, 0.0]
    other = settings_of(scorer="nudenet", threshold=0.4, classes=["FEET_EXPOSED"]).load("cpu")
    assert values(other.score(images, cases()[:2], None), "nude") == [0.0, 0.0]
    facts = settings.check()
    assert facts.versions["nudenet"]
    assert len(facts.weights or "") == 64


@pytest.mark.parametrize(
    ("content", "module", "install"),
    [
        ({"scorer": "lpips"}, "torchvision", "scorer: perceptual"),
        ({"scorer": "fid"}, "torch_fidelity", "features: {folder"),
        ({"scorer": "kid"}, "torchmetrics", r"conceptprune\[evaluate\]"),
        ({"scorer": "nudenet"}, "nudenet", r"conceptprune\[evaluate\]"),
    ],
)
def test_a_missing_package_is_named_before_any_work_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, str], module: str, install: str
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == module else name)
    with pytest.raises(UserError, match=f"(?s){module}.*{install}"):
        settings_of(**content).check()


def test_pickled_weights_are_not_read(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "config.json").write_bytes((clip / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled checkpoints are not read"):
        settings_of(scorer="clip-similarity", model={"folder": str(tmp_path)}).check()


def _narrower(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.1.weight"] = tensors["classifier.1.weight"][:, :8].contiguous()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_narrower, r"classifier.1.weight is \[7, 8\] and its config.json calls for \[7, 16\]"),
        (lambda tensors: tensors.pop("classifier.1.weight"), "has no tensor classifier.1.weight"),
    ],
)
def test_a_network_whose_weights_are_not_its_configs_is_refused_by_the_tensor(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], told: str
) -> None:
    folder = save_classifier(tmp_path / "network")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=told):
        settings_of(scorer="classifier", model={"folder": str(folder)}).load("cpu")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_network_with_an_odd_config_is_one_error(tmp_path: Path, name: str) -> None:
    folder = save_classifier(tmp_path / "network")
    content = json.loads((folder / name).read_text())
    odd = {"depths": "x"} if name == "config.json" else {"image_processor_type": "NoSuch"}
    (folder / name).write_text(json.dumps(content | odd))
    with pytest.raises(UserError, match=f"scorers: .*{folder}") as error:
        settings_of(scorer="classifier", model={"folder": str(folder)}).load("cpu")
    assert "\n" not in str(error.value)


def test_a_damaged_file_of_weights_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "network")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or not a safetensors file"):
        settings_of(scorer="classifier", model={"folder": str(folder)}).check()


def test_the_digest_of_the_weights_follows_the_weights(tmp_path: Path) -> None:
    one = settings_of(scorer="classifier", model={"folder": str(save_classifier(tmp_path / "a"))})
    two = settings_of(
        scorer="classifier", model={"folder": str(save_classifier(tmp_path / "b", always=2))}
    )
    assert one.check().weights != two.check().weights
    assert {"transformers", "torch"} <= one.check().versions.keys()
