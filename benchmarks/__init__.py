"""What the library costs, measured: `python -m benchmarks` prints a table and keeps the numbers."""
