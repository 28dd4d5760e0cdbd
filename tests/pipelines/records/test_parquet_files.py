"""The house rules of Parquet, held against every file that a run leaves behind."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conceptprune.errors import StoreError
from conceptprune.store import parquet_to_table
from tests.pipelines.conftest import TinyStore

KINDS = {"prompts", "partial", "statistics", "neurons", "preview", "ledger"}


@pytest.fixture(scope="module")
def files(tiny_store: TinyStore) -> dict[Path, pq.ParquetFile]:
    """Every Parquet file of the store, by its path there."""
    root = Path(tiny_store.uri)
    found = {path.relative_to(root): pq.ParquetFile(path) for path in root.rglob("*.parquet")}
    kinds = {metadata(file)["conceptprune.format"].split("/")[0] for file in found.values()}
    # A partial is a table of statistics.
    assert kinds == KINDS - {"partial"}
    assert {path.parts[1] for path in found if path.parts[0] == "objects"} == KINDS - {"ledger"}
    return found


def metadata(file: pq.ParquetFile) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}


def test_each_declares_a_versioned_format_its_order_and_a_digest(
    files: dict[Path, pq.ParquetFile],
) -> None:
    for path, file in files.items():
        declared = metadata(file)
        assert declared["conceptprune.format"].split("/")[1].isdigit(), path
        assert len(declared["conceptprune.digest"]) == 64, path
        assert declared["conceptprune.sorted_by"], path


def test_each_is_sorted_as_it_declares_and_tells_every_reader(
    files: dict[Path, pq.ParquetFile],
) -> None:
    for path, file in files.items():
        order = metadata(file)["conceptprune.sorted_by"].split(",")
        keys = file.read(columns=order).select(order)
        assert keys.num_rows == keys.group_by(order).aggregate([]).num_rows, f"{path}: keys repeat"
        places = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in order])
        assert places.to_pylist() == list(range(len(keys))), path
        columns = [file.schema_arrow.names[c.column_index] for c in sorting(file)]
        assert columns == order, path


def sorting(file: pq.ParquetFile) -> tuple[pq.SortingColumn, ...]:
    return file.metadata.row_group(0).sorting_columns


def test_each_has_one_explicit_schema_per_format(files: dict[Path, pq.ParquetFile]) -> None:
    schemas: dict[str, pa.Schema] = {}
    for path, file in files.items():
        schema = file.schema_arrow
        first = schemas.setdefault(metadata(file)["conceptprune.format"], schema)
        assert schema.equals(first, check_metadata=False), path
        assert not any(pa.types.is_null(field.type) for field in schema), path
        assert not all(field.nullable for field in schema), path


def test_a_flipped_byte_in_any_page_of_any_kind_is_found(
    files: dict[Path, pq.ParquetFile], tiny_store: TinyStore
) -> None:
    one_of_each = {path.parts[1]: path for path in files}
    for path in one_of_each.values():
        data = (Path(tiny_store.uri) / path).read_bytes()
        assert parquet_to_table(data).num_rows
        group = files[path].metadata.row_group(0)
        for column in (group.column(index) for index in range(group.num_columns)):
            first = column.dictionary_page_offset or column.data_page_offset
            flipped = bytearray(data)
            flipped[first + column.total_compressed_size - 1] ^= 1
            with pytest.raises(StoreError, match="CRC checksum verification failed"):
                parquet_to_table(bytes(flipped))


def test_they_are_partitioned_by_run_and_model_only(
    files: dict[Path, pq.ParquetFile],
) -> None:
    partitions = {part.split("=")[0] for path in files for part in path.parts if "=" in part}
    assert partitions == {"run", "model"}
