"""What a node makes once: who has to wait for it says so."""

import threading
from pathlib import Path

import pytest

from conceptprune.errors import UserError
from conceptprune.models import node_cache
from conceptprune.models.node_cache import cache_folder, made_once


def test_a_cache_in_the_home_of_nobody_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTPRUNE_CACHE", "~nobody-has-this-name/x")
    with pytest.raises(UserError, match="knows no home of that user; set CONCEPTPRUNE_CACHE"):
        cache_folder()


def test_of_two_that_ask_at_once_one_makes_it_and_the_other_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_cache, "SECONDS_OF_PATIENCE", 0.05)
    folder = tmp_path / "models" / "a"
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def slowly(partial: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        made.append("slowly")
        (partial / "x").write_text("x", encoding="utf-8")

    first = threading.Thread(target=made_once, args=(folder, slowly))
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=made_once, args=(folder, lambda _: made.append("again")))
    second.start()
    while not caplog.messages:
        assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(60)
    assert made == ["slowly"]
    assert (folder / "x").is_file()
    assert f"waiting for another process of this node, which is making {folder}" in caplog.text
