"""The JSON as a table that fits a terminal, without a table library."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HEADINGS = (
    "model", "dtype", "batch", "bare ev/s", "collect ev/s", "over %", "of products %", "peak MiB",
)  # fmt: skip


def table(results: Mapping[str, Any]) -> str:
    """Speeds of all models, then everything else, one line each."""
    machine = results["machine"]
    kind = "tiny stand-ins, which say nothing about speed" if results["small"] else "real sizes"
    parts = [f"{machine['device']}, {machine['memory_mib']} MiB; {kind}", ""]
    parts += _columns([HEADINGS, *_speeds(results["models"])])
    parts += ["", *_others(results)]
    return "\n".join(parts)


def _speeds(models: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, dtypes in models.items():
        for dtype, found in dtypes.items():
            rows = [("", row) for row in found.get("speed", [])]
            rows += [
                (f" {way}", row)
                for way, row in found.get("variants", {}).items()
                if isinstance(row, Mapping)
            ]
            for way, row in rows:
                yield (
                    name + way,
                    dtype,
                    str(row["prompts"]),
                    f"{row['bare_evaluations_a_second']:.4g}",
                    _number(row.get("collection_evaluations_a_second")),
                    _number(row.get("overhead_percent")),
                    _number(100 * row.get("share_of_product_rate", 0)),
                    _number(row.get("collection_peak_mib")),
                )


def _others(results: Mapping[str, Any]) -> Iterator[str]:
    for dtype, rate in results["product_tflops"].items():
        yield f"matrix products, {dtype}: {rate:.4g} TFLOP/s"
    for name, dtypes in results["models"].items():
        for dtype, found in dtypes.items():
            for key in ("failed", "skipped"):
                if key in found:
                    yield f"{name} {dtype}: {key}: {found[key]}"
            for part in ("cut", "encoding", "erasure", "concept", "offload"):
                if part in found:
                    yield f"{name} {dtype}: {part}: {_one_line(found[part])}"
            variants = found.get("variants", {})
            if not all(isinstance(row, Mapping) for row in variants.values()):
                yield f"{name} {dtype}: variants: {_one_line(variants)}"
    for name, found in results["correctness"].items():
        verdict = {True: "passed", False: "NOT PASSED", None: "found"}[found.get("passed")]
        yield f"{name}: {verdict}: {_one_line(found)}"


def _one_line(found: Any) -> str:
    if isinstance(found, Mapping):
        return ", ".join(f"{key} {_one_line(value)}" for key, value in found.items())
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def _number(value: float | None) -> str:
    return f"{value:.4g}" if value else ""


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
