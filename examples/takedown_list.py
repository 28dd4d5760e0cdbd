"""Turn a CSV file of names to erase into a manifest for `conceptprune erase`.

python examples/takedown_list.py examples/takedowns.csv manifest.yaml
"""

import csv
import sys
from pathlib import Path

import yaml

from conceptprune.manifest import concept_key, parse_manifest

source, out = map(Path, sys.argv[1:])
with source.open(newline="", encoding="utf-8") as stream:
    rows = list(csv.DictReader(stream))
# Such lists repeat names, also in other spellings; a manifest may name each concept only once.
by_key: dict[str, dict[str, str]] = {}
for row in rows:
    by_key.setdefault(concept_key(row["name"]), row)
concepts = [{"name": row["name"], "kind": row["kind"]} for row in by_key.values()]
manifest = {
    "version": 1,
    "model": {"builtin": "studio"},
    "concepts": concepts,
    "outputs": {"deltas": True, "fuse": "budget"},
    "collection": {"steps": 20, "tau": 10, "dtype": "float32"},
}
text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
# Names come from elsewhere, so errors in them are reported here, not by the job.
parse_manifest(text, source=str(out), folder=out.parent)
out.write_text(text, encoding="utf-8")
print(f"{len(concepts)} concepts of {len(rows)} rows are in {out}")
