"""The tests. This is imported before all else, by pytest and by each of its processes."""

import os
import sys

# Where the environment says that no bytecode is written, every one of the many processes that tests
# start would compile torch, diffusers and Ray again.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
sys.dont_write_bytecode = False
