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


NAMES = [
    *(".env", ".env.local", "prod.env", ".aws", "kubeconfig-prod", "id_ed25519", "server.pem"),
    *("a.key", ".netrc", "_netrc", ".npmrc", ".pypirc", ".dockercfg", ".docker"),
    *(".git-credentials", "store.p12", "store.pfx", "Passwords.kdbx", "id_dsa", "x.tfstate"),
    *("terraform.tfstate.backup", "prod.tfvars", ".boto", "gcloud", ".azure", "rclone.conf"),
    *("my-service-account.json", "client_secret_1.json", "application_default_credentials.json"),
    *(".pgpass", ".my.cnf", "putty.ppk", "secrets.yaml", "credentials.toml", ".vault-token"),
    *("kaggle.json", "hf_token", "x.keytab", "release.jks", "AuthKey_1.p8", "bot_accessKeys.csv"),
]


@pytest.mark.parametrize("name", NAMES)
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
    (tmp_path / name).unlink()
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    assert isinstance(upload.find(folder), StaysBehind)


KEYS = [
    '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}',
    '{"type": "authorized_user", "client_id": "x", "refresh_token": "1//0planted"}',
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n",
    "[default]\naws_secret_access_key = planted+0123456789\n",
    "users:\n- user:\n    client-key-data: cGxhbnRlZA==\n",
    "AKIAIOSFODNN7EXAMPLE",
    "hf_" + "planted" * 5,
]


@pytest.mark.parametrize("content", KEYS)
@pytest.mark.parametrize("name", ["a.json", "b.txt", "deploy.yaml", "noted"])
def test_a_file_that_holds_a_key_never_travels_whatever_its_name(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_text(content)
    (folder / "config.json").write_text("{}")
    for package in ("conceptprune", "pipelines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pipelines" / name).write_text(content)
    upload = Upload.of(tmp_path)
    found = upload.find(folder / name)
    assert isinstance(found, StaysBehind)
    assert "holds a key or a token" in found.why
    assert isinstance(upload.find(folder), StaysBehind | Travelling)
    if isinstance(found := upload.find(folder), Travelling):
        assert f"model/{name}" not in found.files
    assert f"pipelines/{name}" not in upload.code()
    assert f"pipelines/{name}" in upload.left_out()


def test_all_that_this_repository_consists_of_travels() -> None:
    upload = Upload.of(Path(__file__).parents[3])
    assert "conceptprune/store/credentials.py" in upload.code()
    for package in ("conceptprune", "pipelines"):
        sources = set((upload.working_dir / package).rglob("*.py"))
        assert sources <= {*upload.code().values()}
