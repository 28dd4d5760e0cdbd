"""Tables as Parquet bytes: equal for equal tables, and checked page by page."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from conceptprune.errors import StoreError

FORMAT_KEY = b"conceptprune.format"
"""Schema metadata that every table of the store declares, as in "statistics/1"."""


def table_to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes, equal for equal tables: fixed codec, page checksums, no time stamps.

    Raises:
        ValueError: the table's schema does not declare its format.
    """
    if FORMAT_KEY not in (table.schema.metadata or {}):
        raise ValueError(f"the schema's metadata lacks {FORMAT_KEY.decode()}")
    sink = io.BytesIO()
    # Sums hardly ever repeat: a dictionary of them would only be carried along.
    words = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, sink, compression="zstd", use_dictionary=words, write_page_checksum=True)
    return sink.getvalue()


def parquet_to_table(data: bytes) -> pa.Table:
    """The inverse of `table_to_parquet`; page checksums are verified.

    Raises:
        StoreError: the bytes are damaged, or no such table.
    """
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"a Parquet table is damaged: {error}") from error
    if FORMAT_KEY not in (table.schema.metadata or {}):
        raise StoreError(f"a Parquet table does not declare {FORMAT_KEY.decode()}")
    return table
