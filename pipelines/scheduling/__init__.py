"""The cluster at hand: its workers, the graph of units, and the driver's loop."""

import os

# Before Ray is imported, which reads it then: under `uv run`, Ray would start each worker through
# uv again in a copy of the working directory, where they die without a word.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
