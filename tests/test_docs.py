"""What the documents say to run, runs; what they show, is there."""

import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

import conceptprune
from conceptprune.manifest import parse_manifest
from pipelines.cli import main
from tests.support.sd15_shaped import build_pipeline
from tests.support.threads import in_threads

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "cluster/README.md",
    "examples/README.md",
    "docs/MEASURED.md",
    "docs/COMMANDS.md",
    "docs/TOOLS.md",
    "docs/RELIABILITY.md",
    "docs/LIMITS.md",
    "docs/MANIFEST.md",
    "docs/SUITE.md",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The README's `conceptprune` commands, in its order."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("conceptprune ")]


def recipe(store: str) -> list[list[str]]:
    """The commands of `make demo`."""
    make = ["make", "--dry-run", "--assume-old=.venv/installed", "demo", f"STORE={store}"]
    said = subprocess.run(make, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    lines = [line for line in said.splitlines() if "/conceptprune " in line]
    return [["conceptprune", *shlex.split(line)[1:]] for line in lines]


def run(command: list[str]) -> None:
    """Run a command in this process: to start one takes seconds."""
    with pytest.raises(SystemExit) as stop:
        main(command[1:])
    assert not stop.value.code, command


def without_ray(path: Path, copy: Path) -> dict[str, Any]:
    """What a manifest or suite says, to be run in this process: Ray's part has tests of its own."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["compute"]["actors"] = 0
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(yaml.safe_dump(content), encoding="utf-8")
    return content


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make demo` has run with two artists of each list of its manifest."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    manifest = without_ray(ROOT / "manifests" / "demo.yaml", folder / "manifests" / "demo.yaml")
    manifest["fillers"]["style"] = manifest["fillers"]["style"][:3]
    manifest["outputs"]["preview"]["steps"] = 3
    for concepts in ("concepts", "retain"):
        names = Path("manifests", manifest[concepts]["file"])
        (folder / names).parent.mkdir(exist_ok=True)
        first = (ROOT / names).read_text(encoding="utf-8").splitlines()[:2]
        (folder / names).write_text("\n".join(first), encoding="utf-8")
    suite = Path("manifests", "suites", "gallery.yaml")
    content = without_ray(ROOT / suite, folder / suite)
    content["fillers"]["style"] = content["fillers"]["style"][:2]
    content["generation"] |= {"steps": 3}
    (folder / suite).write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "manifests" / "demo.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in recipe("runs/demo"):
            run(command)
    assert (folder / "runs" / "demo" / "report.html").stat().st_size > 100_000
    return folder


def test_every_command_of_the_readme_runs_after_the_demo(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    names = [command[1] for command in commands()]
    made = ["validate", "plan", "erase", "status", "export", "report"]
    assert names == [*made, "evaluate", "attack", "tune"]
    shown = {}
    for command in commands():
        run(command)
        shown[command[1]] = capsys.readouterr().out
    assert "nothing to compute" in shown["erase"]
    assert "a rerun would compute nothing" in shown["status"]
    assert "lower is better" in shown["evaluate"]
    assert "attack/refill-amplify" in shown["attack"]
    assert "(all, reworded)" in shown["tune"]
    StableDiffusionPipeline.from_pretrained(demo / "exported", torch_dtype=torch.float32)
    assert (demo / "report.html").exists()


def test_the_demos_manifest_itself_is_valid_and_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (erase, _) = recipe(str(tmp_path / "store"))
    run(["conceptprune", "validate", erase[2]])
    run(["conceptprune", "plan", erase[2]])
    assert "100 concepts" in capsys.readouterr().out


def test_the_three_lines_of_the_readme_erase_and_restore(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mask, *_) = sorted((demo / "runs/demo/objects/mask").rglob("*.safetensors"))
    monkeypatch.chdir(demo)
    (demo / "zude-zedir.safetensors").symlink_to(mask)
    model = ROOT / "benchmarks" / "gallery" / "models" / "unet"
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    lines = next(block for block in blocks("python") if "load_mask" in block)
    (upto_apply, removal) = lines.split("mask.remove")
    variables = {"pipe": pipe}
    exec(upto_apply, variables)
    assert any(not before[k].equal(v) for k, v in pipe.unet.state_dict().items())
    exec("mask.remove" + removal, variables)
    assert all(before[k].equal(v) for k, v in pipe.unet.state_dict().items())


def test_the_server_of_the_documents_gives_each_request_its_own_masks() -> None:
    pipe = build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    masks = {
        name: conceptprune.find_mask(
            pipe, name, pairs=[("a photo", f"a photo by {name}")], steps=4, tau=2, sparsity=0.2
        )
        for name in ("Ada Bell", "Carl Dorn")
    }
    text = (ROOT / "docs" / "TOOLS.md").read_text(encoding="utf-8").split("## In a server")[1]
    (block,) = re.findall(r"```python\n(.*?)```", text.split("\n## ")[0], flags=re.DOTALL)
    variables: dict[str, Any] = {"pipe": pipe, "masks": masks}
    exec(block.replace("steps=20", "steps=3"), variables)
    seen: dict[str, int] = {}

    def zeros() -> int:
        layers = masks["Ada Bell"].layers
        return sum(int((pipe.unet.get_submodule(name).weight == 0).sum()) for name in layers)

    def look(*_: object) -> None:
        seen.setdefault(threading.current_thread().name, zeros())
        assert seen[threading.current_thread().name] == zeros()

    untouched = zeros()
    pipe.unet.register_forward_pre_hook(look)
    requests = [None, *masks, None, *masks]

    def answer(index: int) -> None:
        threading.current_thread().name = str(index)
        variables["answer"]("a photo", requests[index])

    in_threads(answer, len(requests))
    for index, name in enumerate(requests):
        assert seen[str(index)] - untouched == (masks[name].num_entries if name else 0)
    assert zeros() == untouched


def test_the_queries_of_the_readme_answer_for_the_demo(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo)
    (block,) = blocks("sql")
    shared, densities, failures = (
        duckdb.sql(query).fetchall() for query in block.split(";") if query.strip()
    )
    assert len(shared) == 10
    assert {call for _, call, _ in densities} == set(range(6))
    assert all(0 < density < 0.1 for *_, density in densities)
    assert failures == []


def test_the_manifests_of_the_readme_are_valid() -> None:
    for block in blocks("yaml"):
        parse_manifest(block, source="README.md", folder=ROOT)
        assert yaml.safe_load(block)["version"] == 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_of_the_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    local = [target for target in targets if not target.startswith("http")]
    assert [t for t in local if not (ROOT / document).parent.joinpath(t).exists()] == []


def test_the_readmes_first_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first = next(block for block in blocks("bash"))
    targets = re.findall(r"^make (\w+)", first, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_published_setting_of_the_demo_differs_only_in_how_all_are_combined() -> None:
    ours, published = (
        yaml.safe_load((ROOT / "manifests" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("demo", "demo-published")
    )
    assert ours.pop("method") == "reword"
    assert ours.pop("reword")
    assert published["outputs"].pop("fuse") == "union"
    assert published == ours
