"""What `submit` takes for uploaded is what Ray's client uploads."""

import tempfile
import zipfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from ray._private.runtime_env.packaging import create_package

from pipelines.submit.upload import PATTERNS, StaysBehind, Travelling, Upload

FILES = ("a.txt", "b.bin", "d/a.txt", "d/b.bin", "d/e/a.txt", "runs/a.txt", "d/runs/b.bin")
LINES = st.lists(
    st.sampled_from(
        ["*.txt", "a.txt", "/a.txt", "d", "d/", "/d/e", "e/", "!a.txt", "!d/e/a.txt", "d/*", "**/e"]
    ),
    max_size=3,
)
IGNORED = st.dictionaries(
    st.sampled_from([".gitignore", ".rayignore", "d/.gitignore", "d/e/.rayignore"]),
    LINES,
    max_size=3,
)


@given(ignored=IGNORED)
@settings(max_examples=60, deadline=None)
def test_a_file_travels_where_rays_package_has_it(ignored: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "work")
        for file in FILES:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(file, encoding="utf-8")
        for file, lines in ignored.items():
            (root / file).write_text("\n".join(lines), encoding="utf-8")
        package = Path(name, "package.zip")
        create_package(str(root), package, include_gitignore=True, excludes=list(PATTERNS))
        packed = set(zipfile.ZipFile(package).namelist())
        upload = Upload.of(root)
        found = {file: upload.find(root / file) for file in FILES}
        assert {file for file, one in found.items() if isinstance(one, Travelling)} == packed & set(
            FILES
        )
        # Of a folder, what no job reads may stay behind.
        read = {file for file in FILES if file.startswith("d/") and file.endswith(".txt")}
        assert isinstance(upload.find(root / "d"), Travelling) == read.issubset(packed)


def test_a_link_in_the_working_directory_travels_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("a", encoding="utf-8")
    root = tmp_path / "work"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(root)
    package = tmp_path / "package.zip"
    create_package(str(root), package, include_gitignore=True, excludes=[])
    assert zipfile.ZipFile(package).namelist() == ["link/a.txt"]
    for path in (root / "link" / "a.txt", tmp_path / "alias" / "link" / "a.txt"):
        found = Upload.of(root).find(path)
        assert isinstance(found, Travelling)
        assert found.path == "link/a.txt"
    assert isinstance(Upload.of(root).find(tmp_path / "outside" / "a.txt"), StaysBehind)
