"""A trained tiny language model, saved once."""

from pathlib import Path

import pytest

from tests.support.tiny_language_model import save_language_model


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language-model") / "lists")
