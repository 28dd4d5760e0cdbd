"""Tables as Parquet bytes: deterministic, sorted, and checked both by page and as a whole.

The schema's metadata declares its format (`conceptprune.format`, as in "statistics/1"), its order
(`conceptprune.sorted_by`, columns with commas between them) and its digest (`conceptprune.digest`).
"""

import hashlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError

FORMAT_KEY = b"conceptprune.format"
SORTED_BY_KEY = b"conceptprune.sorted_by"
DIGEST_KEY = b"conceptprune.digest"

MOST_BYTES = 1 << 32
"""Limit for a table in memory: larger than any unit's statistics or a ledger of a million units."""

MOST_ROWS = 1 << 23
"""Limit for its rows, most of which readers hold one by one; repeated values take no bytes."""

DECLARED = (FORMAT_KEY, SORTED_BY_KEY)
"""What a table's schema must declare; the digest is added when the table is written."""


def table_to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes, equal for equal tables: fixed codec, page checksums, no time stamps.

    Raises:
        ValueError: the schema does not declare its format and order, or the rows are not sorted.
    """
    metadata = dict(table.schema.metadata or {})
    if missing := [key.decode() for key in DECLARED if key not in metadata]:
        raise ValueError(f"the schema's metadata lacks {' and '.join(missing)}")
    order = [(name, "ascending") for name in sorted_by(table)]
    places = pc.sort_indices(table, sort_keys=order)
    if not places.equals(pa.array(range(len(table)), places.type)):
        raise ValueError(f"the rows are not sorted by {', '.join(sorted_by(table))}")
    table = table.replace_schema_metadata({**metadata, DIGEST_KEY: table_digest(table)})
    sink = io.BytesIO()
    # Sums hardly ever repeat, so a dictionary would only add size.
    words = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=words,
        write_page_checksum=True,
        sorting_columns=pq.SortingColumn.from_ordering(table.schema, order),
    )
    return sink.getvalue()


def parquet_to_table(
    data: bytes, newest: int | None = None, most_rows: int = MOST_ROWS
) -> pa.Table:
    """The inverse of `table_to_parquet`; page checksums and the digest are verified.

    Args:
        data: the file.
        newest: the highest format number that the caller knows. A later version may compute
            its digest differently, so for such a table only the pages are verified.
        most_rows: more are refused before any is read.

    Raises:
        StoreError: the bytes are damaged, or not such a table.
    """
    try:
        # Arrow's own buffers: its threads would need Python to read from a file of Python's, and
        # one that still does so when the interpreter ends aborts the process.
        _check_expanded(data, most_rows)
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"a Parquet table is damaged: {error}") from error
    try:
        return _whole(table, newest)
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        NotImplementedError,
        pa.ArrowException,
    ) as error:
        # Such as metadata that is no text.
        raise StoreError(f"a Parquet table is damaged: {error}") from error


def _whole(table: pa.Table, newest: int | None) -> pa.Table:
    """The table without its digest, if that is right."""
    metadata = dict(table.schema.metadata or {})
    if missing := [key.decode() for key in (*DECLARED, DIGEST_KEY) if key not in metadata]:
        raise StoreError(f"a Parquet table does not declare {' and '.join(missing)}")
    digest = metadata.pop(DIGEST_KEY).decode()
    table = table.replace_schema_metadata(metadata)
    if newest is not None and format_number(table.schema) > newest:
        return table
    if (found := table_digest(table)) != digest:
        raise StoreError(f"a Parquet table is damaged: its digest was {digest} and is {found}")
    return table


def _check_expanded(data: bytes, most_rows: int) -> None:
    """Refuse a small file that would expand to fill the memory (compressed or repeated values).

    Raises:
        StoreError: it would be larger than `MOST_BYTES`, or has more rows.
        ArrowException, OSError: it is damaged.
    """
    found = pq.ParquetFile(pa.BufferReader(data)).metadata
    if found.num_rows > most_rows:
        raise StoreError(f"a Parquet table of {found.num_rows:,} rows, more than {most_rows:,}")
    groups = [found.row_group(index) for index in range(found.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(found.num_columns)]
    size = sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks)
    # An upper bound, if every value were the longest; only if that is too much, count exactly.
    texts = {
        chunk.path_in_schema
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY"
        and chunk.num_values * chunk.total_uncompressed_size > MOST_BYTES
    }
    if texts and size <= MOST_BYTES:
        # Each distinct text is in memory once, however often it is repeated.
        coded = pq.ParquetFile(pa.BufferReader(data), read_dictionary=sorted(texts))
        for batch in coded.iter_batches(columns=sorted(texts)):
            size += sum(_text_bytes(column) for column in batch.columns)
            if size > MOST_BYTES:
                break
    if size > MOST_BYTES:
        raise StoreError(f"a Parquet table of {len(data):,} bytes expands to over {MOST_BYTES:,}")


def _text_bytes(array: pa.Array) -> int:
    if pa.types.is_list(array.type):
        return _text_bytes(array.flatten())
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)


def whole_rows(table: pa.Table, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a table in the columns of `schema`, checked to have their types and no gaps.

    A table's digest says only that nothing was lost: anyone who can write the store may have put a
    table there that no version writes.

    Raises:
        ValueError: a column is missing, or has another type or a gap.
    """
    for field in schema:
        there = table.column_names.count(field.name) == 1
        column = table.column(field.name) if there else None
        if column is None or type_name(column.type) != type_name(field.type):
            raise ValueError(f"it has no column {field.name} of {type_name(field.type)}")
        if column.null_count and not field.nullable:
            raise ValueError(f"its column {field.name} has a gap")
    rows: list[dict[str, Any]] = table.select(schema.names).to_pylist()
    for row in rows:
        if any(isinstance(value, list) and None in value for value in row.values()):
            raise ValueError("a list in it has a gap")
    return rows


def format_number(schema: pa.Schema) -> int:
    """The number at the end of a table's format: 3 of "ledger/3".

    Raises:
        StoreError: it has none.
    """
    declared: str = (schema.metadata or {}).get(FORMAT_KEY, b"").decode()
    name, _, number = declared.rpartition("/")
    if not name or not number.isdecimal():
        raise StoreError(f"a Parquet table declares no format with a number: {declared!r}")
    return int(number)


def sorted_by(table: pa.Table) -> list[str]:
    """The columns that a table declares to be sorted by."""
    return str(table.schema.metadata[SORTED_BY_KEY].decode()).split(",")


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a table's columns and metadata, independent of library and codec."""
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    columns = [[field.name, type_name(field.type)] for field in table.schema]
    digest = hashlib.sha256(canonical_json({"columns": columns, "metadata": metadata}).encode())
    for column in table.columns:
        _add(digest, pa.concat_arrays(column.chunks or [pa.array([], column.type)]))
    return digest.hexdigest()


def type_name(kind: pa.DataType) -> str:
    """A column's type, the same before and after it was written."""
    # Without the name of list items, which Parquet changes.
    return f"list<{type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _add(digest: Any, array: pa.Array) -> None:
    """Add an array: which values are present, the length of each, and the values themselves."""
    digest.update(_bytes(array.is_valid().cast(pa.uint8())))
    array = array.drop_null()
    if pa.types.is_list(array.type):
        digest.update(_bytes(pc.list_value_length(array)))
        _add(digest, array.flatten())
    elif pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        digest.update(_bytes(pc.binary_length(array)))
        digest.update(b"".join(array.cast(pa.binary()).to_pylist()))
    elif pa.types.is_timestamp(array.type):
        digest.update(_bytes(array.cast(pa.int64())))
    else:
        digest.update(_bytes(array))


def _bytes(numbers: pa.Array) -> bytes:
    values = numbers.to_numpy(zero_copy_only=False)
    little_endian: bytes = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return little_endian
