"""What travels is found by its name: under the working directory, links and all."""

from pathlib import Path

import pytest

from pipelines.submit.upload import StaysBehind, Travelling, Upload, stage


def test_a_link_in_the_working_directory_travels_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("a", encoding="utf-8")
    root = tmp_path / "work"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(root)
    for path in (root / "link" / "a.txt", tmp_path / "alias" / "link" / "a.txt"):
        found = Upload.of(root).find(path)
        assert isinstance(found, Travelling)
        assert found.path == "link/a.txt"
        stage(found.files, tmp_path / "job")
    copied = tmp_path / "job" / "link" / "a.txt"
    assert copied.read_text("utf-8") == "a"
    assert not copied.is_symlink()
    assert isinstance(Upload.of(root).find(tmp_path / "outside" / "a.txt"), StaysBehind)


def test_the_digest_is_of_what_travels_and_of_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.json").write_text("{}", encoding="utf-8")

    def digest() -> str:
        found = Upload.of(tmp_path).find(tmp_path / "model")
        assert isinstance(found, Travelling)
        return found.digest

    first = digest()
    (tmp_path / "model" / "README.md").write_text("more", encoding="utf-8")
    assert digest() == first
    (tmp_path / "model" / "a.json").write_text("[]", encoding="utf-8")
    assert digest() != first


@pytest.mark.parametrize(
    "name", [".env", ".env.local", ".aws", "kubeconfig-prod", "id_ed25519", "server.pem", "a.key"]
)
def test_what_is_named_as_secrets_are_is_told_to_be_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.yaml").touch()
    (tmp_path / name).touch()
    for package in ("conceptprune", "pipelines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pipelines" / "credentials.json").touch()
    upload = Upload.of(tmp_path)
    assert upload.left_out() == [name, "pipelines/credentials.json"]
    assert "pipelines/credentials.json" not in upload.code()
