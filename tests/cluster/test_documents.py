"""The pages of `cluster/`: links lead somewhere, and what was not run says so."""

import re

import pytest

from tests.cluster.documents import FOLDER, NOT_RUN, ROOT, blocks

PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
NEEDS_WHAT_WAS_NOT_AT_HAND = ("kubectl", "docker", "ray up", "ray down", "ray dashboard")


def test_the_pages_are_there() -> None:
    assert PAGES == ["CAPACITY.md", "README.md", "RUNBOOK.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (FOLDER / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (FOLDER / target).exists()] == []


def test_what_was_not_run_needs_what_was_not_at_hand_and_says_so() -> None:
    for block in blocks():
        needs = any(line.startswith(NEEDS_WHAT_WAS_NOT_AT_HAND) for line in block)
        assert needs == (block[0] == NOT_RUN), block


def test_files_that_commands_name_exist() -> None:
    words = {word for block in blocks() for line in block for word in re.split(r"[\s=]", line)}
    files = {word for word in words if re.match(r"(cluster|manifests)/", word)}
    assert files
    assert {file for file in files if not (ROOT / file).exists()} == set()
