"""Tables: the same rows make the same bytes, and damage to a byte is found."""

from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conceptprune.errors import StoreError
from conceptprune.store import parquet_to_table, table_to_parquet

SCHEMA = pa.schema(
    [("name", pa.string()), ("sums", pa.list_(pa.float64()))],
    metadata={"conceptprune.format": "test/1", "conceptprune.sorted_by": "name"},
)


def table() -> pa.Table:
    rows = [{"name": f"layer {i % 7}", "sums": [i * 1.1, i / 3]} for i in range(500)]
    return pa.Table.from_pylist(sorted(rows, key=itemgetter("name")), schema=SCHEMA)


def test_a_table_comes_back_equal_and_makes_the_same_bytes() -> None:
    data = table_to_parquet(table())
    back = parquet_to_table(data)
    assert back.equals(table())
    assert back.schema.metadata == SCHEMA.metadata
    assert table_to_parquet(table()) == data


def test_a_table_declares_its_format() -> None:
    with pytest.raises(ValueError, match=r"lacks conceptprune\.format and conceptprune\.sorted_by"):
        table_to_parquet(table().replace_schema_metadata(None))
    sink = pa.BufferOutputStream()
    pq.write_table(table().replace_schema_metadata(None), sink)
    with pytest.raises(StoreError, match=r"does not declare conceptprune\.format"):
        parquet_to_table(sink.getvalue().to_pybytes())


def test_a_table_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not sorted by name"):
        table_to_parquet(table().take([1, 499, 2]))


def test_a_table_whose_rows_are_not_those_that_were_written_is_told_by_its_digest() -> None:
    metadata = pq.read_schema(pa.BufferReader(table_to_parquet(table()))).metadata
    sink = pa.BufferOutputStream()
    pq.write_table(table().slice(1).replace_schema_metadata(metadata), sink)
    with pytest.raises(StoreError, match="damaged: its digest was"):
        parquet_to_table(sink.getvalue().to_pybytes())


def test_a_byte_flipped_in_any_page_is_found_by_its_checksum() -> None:
    data = table_to_parquet(table())
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    # The last bytes of a column are the end of its last page, and no header.
    for column in columns:
        first = column.dictionary_page_offset or column.data_page_offset
        last = first + column.total_compressed_size - 1
        for place in range(last - 4, last + 1):
            flipped = bytearray(data)
            flipped[place] ^= 1
            with pytest.raises(StoreError, match="CRC checksum verification failed"):
                parquet_to_table(bytes(flipped))


@pytest.mark.parametrize("size", [0, 3, 100, -10])
def test_a_truncated_table_is_a_store_error(size: int) -> None:
    with pytest.raises(StoreError, match="a Parquet table is damaged"):
        parquet_to_table(table_to_parquet(table())[:size])
