"""The artifact store: immutable objects under content digests, and commit records written last.

    objects/<kind>/model=<m>/<sha256>.<suffix>   data, only ever written with these bytes
    commits/<kind>/<key>.json                    "the work `key` is done, and these are its objects"
    runs/run=<id>/...                            what each run planned and what became of it
    claims/<kind>/<key>.json                     who is computing a unit just now; they expire
    events/<number>.json                         what was done, chained by digests
    damaged/...                                  what was found damaged, under its former path
    probe/<name>                                 gone again after `Store.check`

A local folder and an object store (`s3://...`) behave alike: `backend.py` names the few operations
that both have, and `store.py` uses only these.
"""

from conceptprune.store.backend import Entry
from conceptprune.store.parquet import (
    format_number,
    parquet_to_table,
    table_to_parquet,
    type_name,
    whole_rows,
)
from conceptprune.store.records import Commit, LostUnitError, ObjectRef, UnknownFormatError
from conceptprune.store.store import Store
from conceptprune.store.tables import load_table, unit_table

__all__ = [
    "Commit",
    "Entry",
    "LostUnitError",
    "ObjectRef",
    "Store",
    "UnknownFormatError",
    "format_number",
    "load_table",
    "parquet_to_table",
    "table_to_parquet",
    "type_name",
    "unit_table",
    "whole_rows",
]
