"""What `import conceptprune` offers, without torch until it is used."""

import subprocess
import sys

import pytest

import conceptprune

pytestmark = pytest.mark.slow


def test_dir_shows_all_there_is() -> None:
    assert set(conceptprune.__all__) <= set(dir(conceptprune))
    assert all(getattr(conceptprune, name) for name in conceptprune.__all__)


def test_looking_at_the_names_imports_no_torch() -> None:
    code = "import sys, conceptprune; dir(conceptprune); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_mask_imports_few_packages_beside_torch() -> None:
    code = "import sys, conceptprune.method; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(found.stdout.split())
    assert not imported & {"ray", "s3fs", "fsspec", "filelock", "tenacity", "PIL", "pyarrow"}
    assert "torch" in imported
