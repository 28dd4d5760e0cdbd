"""The cluster, its workers, the graph of units, and the driver's loop."""

import os

# Set before Ray is imported, which reads it at import: under `uv run`, Ray would start each worker
# through uv in a copy of the working directory, where they die silently.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
