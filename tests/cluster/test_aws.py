"""The `ray up` file: Ray's own schema accepts it, and it keeps our own rules. It was not run."""

import copy
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "cluster" / "aws" / "cluster.yaml"
TEXT = FILE.read_text(encoding="utf-8")
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)


def checked_by_ray(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it calls the cloud (there is no public function)."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_rays_own_schema_accepts_it() -> None:
    prepared = checked_by_ray(CONFIG)
    assert set(prepared["available_node_types"]) == {"head", "gpu-spot"}


@pytest.mark.parametrize("key", ["unheard_of", "available_nodes"])
def test_rays_own_schema_refuses_an_unknown_key(key: str) -> None:
    with pytest.raises(ValidationError):
        checked_by_ray({**CONFIG, key: {}})


def test_rays_own_schema_refuses_a_wrong_type_below() -> None:
    config = copy.deepcopy(CONFIG)
    config["available_node_types"]["gpu-spot"]["max_workers"] = "8"
    with pytest.raises((ValidationError, TypeError)):
        checked_by_ray(config)


def test_workers_are_spot_gpus_that_come_with_the_work() -> None:
    workers = CONFIG["available_node_types"]["gpu-spot"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert workers["resources"]["GPU"] == 1
    assert workers["min_workers"] == 0
    assert workers["max_workers"] == CONFIG["max_workers"]
    assert "InstanceMarketOptions" not in CONFIG["available_node_types"]["head"]["node_config"]


def test_every_package_is_installed_under_the_constraints() -> None:
    commands = [
        command
        for where in ("initialization", "setup", "head_setup", "worker_setup")
        for command in CONFIG[f"{where}_commands"]
        if re.search(r"\bpip3? install\b", command)
    ]
    assert len(commands) == 2
    for command in commands:
        assert " --constraint ~/conceptprune/constraints.txt " in command


def test_keys_beside_the_code_are_not_sent_along() -> None:
    excluded = CONFIG["rsync_exclude"]
    for name in (".env", ".env.prod", "a.pem", "id_ed25519", "kubeconfig-prod", ".netrc"):
        assert any(fnmatch(name, pattern) for pattern in excluded), name
    kept = ("pyproject.toml", "constraints.txt", "README.md", "conceptprune", "pipelines")
    assert not [name for name in kept if any(fnmatch(name, each) for each in excluded)]


def test_s3_is_reached_by_roles_and_nodes_by_token() -> None:
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]["Arn"]
        for name, node in CONFIG["available_node_types"].items()
    }
    assert len(set(profiles.values())) == 2
    assert CONFIG["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (CONFIG["head_start_ray_commands"], CONFIG["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in CONFIG["head_start_ray_commands"][-1]
    assert not re.search(r"AKIA|access_key|password|IpPermissions", TEXT, re.IGNORECASE)
