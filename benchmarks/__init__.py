"""What the library costs: `python -m benchmarks` measures, prints a table and saves the numbers."""
