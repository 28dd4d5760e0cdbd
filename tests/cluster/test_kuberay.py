"""The Kubernetes manifests hold against a strict schema, and keep our own rules.

No Kubernetes was at hand: this is all that was checked of them.
"""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from pydantic import ValidationError

from conceptprune.manifest import load_manifest
from tests.cluster.kubernetes_schema import PodSpec, RayJob, checked

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
RAYJOB: dict[str, Any] = yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def every_document() -> list[dict[str, Any]]:
    return [document for name in FILES for document in documents(name)]


def pods(node: Any) -> Iterator[PodSpec]:
    """Every pod template below a parsed YAML node."""
    if isinstance(node, dict):
        if "containers" in node:
            yield PodSpec.model_validate(node)
        for child in node.values():
            yield from pods(child)
    if isinstance(node, list):
        for child in node:
            yield from pods(child)


def sections(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of every mapping whose keys are the schema's, not free labels or parameters."""
    free = {"annotations", "nodeSelector", "requests", "limits", "rayStartParams"}
    if isinstance(node, dict) and (not path or path[-1] not in free):
        yield path
        for key, child in node.items():
            yield from sections(child, (*path, key))
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from sections(child, (*path, index))


def at(node: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        node = node[part]
    return node


def test_the_documented_files_are_there() -> None:
    assert FILES == ["cronjob.yaml", "raycronjob.yaml", "rayjob.yaml", "serviceaccount.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_every_document_holds_against_the_schema(name: str) -> None:
    for document in documents(name):
        checked(document)


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_field_anywhere_is_refused(name: str) -> None:
    for document in documents(name):
        for path in sections(document):
            mutated = copy.deepcopy(document)
            at(mutated, path)["unheardOf"] = "x"
            with pytest.raises(ValidationError, match="unheardOf"):
                checked(mutated)


def _cluster(content: dict[str, Any]) -> dict[str, Any]:
    return content["spec"]["rayClusterSpec"]


MUTATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an old API": lambda c: c.update(apiVersion="ray.io/v1alpha1"),
    "no entrypoint": lambda c: c["spec"].pop("entrypoint"),
    "an unknown submission mode": lambda c: c["spec"].update(submissionMode="Job"),
    "a deadline of zero": lambda c: c["spec"].update(activeDeadlineSeconds=0),
    "a number as text": lambda c: c["spec"].update(backoffLimit="2"),
    "a ttl without shutdown": lambda c: c["spec"].update(shutdownAfterJobFinishes=False),
    "an unknown auth mode": lambda c: _cluster(c)["authOptions"].update(mode="none"),
    "no head": lambda c: _cluster(c).pop("headGroupSpec"),
    "fewer at most than at least": lambda c: _cluster(c)["workerGroupSpecs"][0].update(
        minReplicas=9
    ),
    "a start parameter that is no text": lambda c: _cluster(c)["headGroupSpec"].update(
        rayStartParams={"num-cpus": 2}
    ),
    "a mount without a volume": lambda c: _cluster(c)["headGroupSpec"]["template"]["spec"].update(
        volumes=[]
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_copy_is_refused(name: str) -> None:
    mutated = copy.deepcopy(RAYJOB)
    MUTATIONS[name](mutated)
    with pytest.raises((ValidationError, KeyError)):
        checked(mutated)


def test_the_entrypoint_is_the_documented_one() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    documented = re.search(r"-- (python -m pipelines\.erase MANIFEST --store) s3://", readme)
    assert documented
    # In the image the package is installed, and has its own name there.
    installed = documented[1].replace("pipelines", "conceptprune_pipelines")
    assert " ".join([*words[:3], "MANIFEST", words[4]]) == installed
    head = checked(RAYJOB).spec.rayClusterSpec.headGroupSpec.template.spec
    mounts = [mount.mountPath for mount in head.containers[0].volumeMounts]
    assert str(Path(words[3]).parent) in mounts
    assert words[5].startswith("s3://")


def test_the_alpha_form_is_marked_and_runs_the_same_job() -> None:
    text = (FOLDER / "raycronjob.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ALPHA")
    assert yaml.safe_load(text)["spec"]["jobTemplate"] == RAYJOB["spec"]


def test_the_cluster_is_private_and_has_a_token() -> None:
    job: RayJob = checked(RAYJOB)
    cluster = job.spec.rayClusterSpec
    assert cluster.authOptions.mode == "token"
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert cluster.headGroupSpec.enableIngress is False
    assert cluster.rayVersion == ray.__version__
    kinds = {document["kind"] for document in every_document()}
    assert not kinds & {"Ingress", "Service", "Secret"}


def test_gpu_workers_come_with_the_work_on_spot_nodes_and_go_with_it() -> None:
    cluster = checked(RAYJOB).spec.rayClusterSpec
    (group,) = cluster.workerGroupSpecs
    assert cluster.enableInTreeAutoscaling
    assert (group.minReplicas, group.replicas) == (0, 0)
    pod = group.template.spec
    assert {toleration.key for toleration in pod.tolerations} == {"nvidia.com/gpu", "spot"}
    (worker,) = pod.containers
    assert worker.resources.limits["nvidia.com/gpu"] == 1
    assert checked(RAYJOB).spec.shutdownAfterJobFinishes
    readme = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"manifests/paper-[\w-]+\.yaml", readme))
    assert documented
    for path in documented:
        # A pod holds one actor of each manifest that the documents send here, and a task beside
        # it; the head, which has no GPU, holds none.
        compute = load_manifest(ROOT / path).compute
        assert (compute.actors, compute.gpus_per_actor) == (group.maxReplicas, 1.0)
        assert float(worker.resources.limits["cpu"]) > compute.cpus_per_actor
    assert "actors: 8, gpus_per_actor: 1" in (FOLDER / "rayjob.yaml").read_text()


def test_the_nightly_job_may_create_runs_and_nothing_else() -> None:
    by_kind = {document["kind"]: checked(document) for document in documents("cronjob.yaml")}
    cron = by_kind["CronJob"]
    assert cron.spec.concurrencyPolicy == "Forbid"
    (rule,) = by_kind["Role"].rules
    assert (rule.apiGroups, rule.resources, rule.verbs) == (
        ["ray.io"],
        ["rayjobs"],
        ["create", "get"],
    )
    account = by_kind["ServiceAccount"].metadata.name
    assert [subject.name for subject in by_kind["RoleBinding"].subjects] == [account]
    assert by_kind["RoleBinding"].roleRef.name == by_kind["Role"].metadata.name
    assert cron.spec.jobTemplate.spec.template.spec.serviceAccountName == account
    # `kubectl create` can make it night after night only if each gets a name of its own.
    assert RAYJOB["metadata"] == {"generateName": "conceptprune-"}


def test_no_pod_has_privileges_or_credentials() -> None:
    found = [pod for document in every_document() for pod in pods(document)]
    assert len(found) == 5
    for pod in found:
        assert pod.securityContext.runAsNonRoot
        for container in pod.containers:
            assert not container.securityContext.allowPrivilegeEscalation
            assert container.securityContext.capabilities.drop == ["ALL"]
            assert {variable.name for variable in container.env} <= {"HF_HOME", "OMP_NUM_THREADS"}
    for name in FILES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not re.search(r"AKIA|secret_?access|password|secretKeyRef", text, re.IGNORECASE)
