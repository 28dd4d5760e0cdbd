"""Starts a local cluster as a job does, and prints what it is like; a process of its own.

In a process that has other clusters, nobody can tell whose the sockets are.
"""

import json
import os
import stat
from pathlib import Path

import psutil
import ray

from conceptprune.manifest import Compute
from pipelines.scheduling.cluster import any_is_up, connected
from tests.support.sockets import listening


def main() -> None:
    """Look while it is up, take its only node away, and look again."""
    told: dict[str, object] = {}
    with connected(Compute(actors=1, gpus_per_actor=0.0)) as told["own"]:
        ray.get(ray.remote(lambda: None).remote())
        (folder,) = Path(os.environ["RAY_TMPDIR"]).iterdir()
        told["folder_mode"] = stat.S_IMODE(folder.stat().st_mode)
        told["token_mode"] = stat.S_IMODE((folder / "token").stat().st_mode)
        told["auth"] = os.environ["RAY_AUTH_MODE"]
        me = psutil.Process()
        told["sockets"] = sorted(listening(me))
        told["up"] = any_is_up()
        (raylet,) = (one for one in me.children(recursive=True) if one.name() == "raylet")
        raylet.kill()
        raylet.wait()
        told["up_without_node"] = any_is_up()
    told["folder_left"] = folder.exists()
    told["auth_left"] = "RAY_AUTH_MODE" in os.environ
    print(json.dumps(told))


if __name__ == "__main__":
    main()
