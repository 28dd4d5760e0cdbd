"""Tables in the store: each says of which unit it is, inside what its digest covers.

Whoever can write a store can let one unit's record name another unit's object. All digests are
right then, and only the object itself can say whose it is.
"""

import pyarrow as pa

from conceptprune.store.parquet import parquet_to_table, table_to_parquet
from conceptprune.store.records import Commit
from conceptprune.store.store import Store

UNIT_KEY = b"conceptprune.unit"


def unit_table(table: pa.Table, unit: str) -> bytes:
    """The Parquet bytes of a table of the unit with this key.

    Raises:
        ValueError: as `table_to_parquet`.
    """
    metadata = {**(table.schema.metadata or {}), UNIT_KEY: unit.encode()}
    return table_to_parquet(table.replace_schema_metadata(metadata))


def load_table(store: Store, commit: Commit, role: str) -> pa.Table:
    """One of a commit's tables.

    Raises:
        LostUnitError: it is missing or damaged, or says that it is another unit's.
        StoreError: it is not a table.
    """
    table = parquet_to_table(store.load(commit, role))
    metadata = dict(table.schema.metadata or {})
    # Tables of earlier versions do not say.
    unit = metadata.pop(UNIT_KEY, commit.key.encode())
    store.check_unit(commit, role, unit.decode(errors="replace"))
    return table.replace_schema_metadata(metadata)
