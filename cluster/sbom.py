"""What is installed beside this Python, as a CycloneDX document: `python cluster/sbom.py > FILE`.

Of an environment that was installed from `cluster/requirements.txt`, it is the bill of materials
of an image. It says the same of the same environment: it has no time, and its number follows from
its content.
"""

import json
import re
import sys
import uuid
from importlib.metadata import Distribution, distributions
from typing import Any

from packaging.requirements import Requirement

ROOT = "conceptprune"


def bill_of_materials() -> dict[str, Any]:
    """The document, in CycloneDX 1.6."""
    found = {_plain(each.metadata["Name"]): each for each in distributions()}
    components = {name: _component(found[name]) for name in sorted(found)}
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**components.pop(ROOT), "type": "application"}},
        "components": list(components.values()),
        "dependencies": [
            {"ref": _url(each), "dependsOn": _needs(each, found)}
            for _, each in sorted(found.items())
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    return {**document, "serialNumber": f"urn:uuid:{number}"}


def _component(each: Distribution) -> dict[str, Any]:
    known = {
        "type": "library",
        "bom-ref": _url(each),
        "name": _plain(each.metadata["Name"]),
        "version": each.version,
        "purl": _url(each),
    }
    said = each.metadata.get_all("License-Expression")
    if said:
        return {**known, "licenses": [{"expression": said[0]}]}
    # Older packages say it in words, or paste the whole text.
    words = "".join(each.metadata.get_all("License") or ()).strip()
    classes = [
        line.rpartition(" :: ")[2]
        for line in each.metadata.get_all("Classifier") or ()
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    names = classes or ([words.splitlines()[0]] if words else [])
    return {**known, "licenses": [{"license": {"name": name}} for name in names]}


def _needs(each: Distribution, found: dict[str, Distribution]) -> list[str]:
    """What it needs of what is installed; what an extra of it would bring counts where it is."""
    names = {_plain(Requirement(line).name) for line in each.requires or ()}
    return sorted(_url(found[name]) for name in names if name in found)


def _url(each: Distribution) -> str:
    return f"pkg:pypi/{_plain(each.metadata['Name'])}@{each.version.replace('+', '%2B')}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
    print()
