"""The Kubernetes manifests hold against KubeRay's and Kubernetes' own schemas, and our own rules.

No Kubernetes was at hand: this is all that was checked of them.
"""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from conceptprune.manifest import load_manifest
from tests.cluster.kubernetes import CRD_OF, check, composed_pods, ray_errors, violations

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
RAYJOB: dict[str, Any] = yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))
CLUSTER: dict[str, Any] = RAYJOB["spec"]["rayClusterSpec"]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def every_document() -> list[dict[str, Any]]:
    return [document for name in FILES for document in documents(name)]


def the(kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents("cronjob.yaml") if document["kind"] == kind)
    return found


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec below a parsed YAML node."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for child in node.values():
            yield from pods(child)
    if isinstance(node, list):
        for child in node:
            yield from pods(child)


def sections(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of every mapping whose keys are the schema's, not free labels or parameters."""
    free = {"annotations", "metadata", "nodeSelector", "requests", "limits", "rayStartParams"}
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
def test_every_document_holds_against_its_schema(name: str) -> None:
    for document in documents(name):
        check(document)


@pytest.mark.parametrize("name", FILES)
def test_a_misspelt_field_anywhere_is_refused(name: str) -> None:
    for document in documents(name):
        paths = list(sections(document))
        if document["kind"] in CRD_OF:
            mutated = copy.deepcopy(document)
            for path in paths:
                at(mutated, path)["unheardOf"] = "x"
            refused = [tuple(e.path) for e in ray_errors(mutated) if "unheardOf" in e.message]
            assert sorted(map(str, refused)) == sorted(map(str, paths))
            continue
        for path in paths:
            mutated = copy.deepcopy(document)
            at(mutated, path)["unheardOf"] = "x"
            with pytest.raises(jsonschema.ValidationError, match="unheardOf"):
                check(mutated)


def _cluster(content: dict[str, Any]) -> dict[str, Any]:
    return content["spec"]["rayClusterSpec"]


MUTATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an old API": lambda c: c.update(apiVersion="ray.io/v1alpha1"),
    "a number as text": lambda c: c["spec"].update(backoffLimit="2"),
    "an unknown auth mode": lambda c: _cluster(c)["authOptions"].update(mode="none"),
    "no head": lambda c: _cluster(c).pop("headGroupSpec"),
    "a worker group without a name": lambda c: _cluster(c)["workerGroupSpecs"][0].pop("groupName"),
    "a start parameter that is no text": lambda c: _cluster(c)["headGroupSpec"].update(
        rayStartParams={"num-cpus": 2}
    ),
    "no quantity": lambda c: _cluster(c)["autoscalerOptions"]["resources"]["limits"].update(
        memory="much"
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_copy_is_refused(name: str) -> None:
    mutated = copy.deepcopy(RAYJOB)
    MUTATIONS[name](mutated)
    with pytest.raises(jsonschema.ValidationError):
        check(mutated)


def test_the_schemas_are_those_of_the_api_version_that_the_files_name() -> None:
    kinds = {document["kind"]: document["apiVersion"] for document in every_document()}
    assert {kind for kind, version in kinds.items() if version == "ray.io/v1"} == set(CRD_OF)


def test_what_kuberay_checks_beside_its_schema_holds() -> None:
    # ray-operator/controllers/ray/utils/validation.go of KubeRay 1.7.
    spec = RAYJOB["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] >= 0
    assert CLUSTER["rayVersion"] == ray.__version__
    assert CLUSTER["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"
    for group in CLUSTER["workerGroupSpecs"]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_every_mount_has_its_volume() -> None:
    for pod in pods(every_document()):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounts = [mount for box in pod["containers"] for mount in box.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} <= volumes


def test_the_entrypoint_is_the_documented_one() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    documented = re.search(r"-- (python -m pipelines\.erase MANIFEST --store) s3://", readme)
    assert documented
    # In the image the package is installed, and has its own name there.
    installed = documented[1].replace("pipelines", "conceptprune_pipelines")
    assert " ".join([*words[:3], "MANIFEST", words[4]]) == installed
    head = CLUSTER["headGroupSpec"]["template"]["spec"]
    mounts = [mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]]
    assert str(Path(words[3]).parent) in mounts
    assert words[5].startswith("s3://")


def test_the_alpha_form_is_marked_and_runs_the_same_job() -> None:
    text = (FOLDER / "raycronjob.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ALPHA")
    assert yaml.safe_load(text)["spec"]["jobTemplate"] == RAYJOB["spec"]


def test_the_cluster_is_private_and_has_a_token() -> None:
    assert CLUSTER["authOptions"]["mode"] == "token"
    assert CLUSTER["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert CLUSTER["headGroupSpec"]["enableIngress"] is False
    kinds = {document["kind"] for document in every_document()}
    assert not kinds & {"Ingress", "Service", "Secret"}


def test_gpu_workers_come_with_the_work_on_spot_nodes_and_go_with_it() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    assert CLUSTER["enableInTreeAutoscaling"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    pod = group["template"]["spec"]
    assert {toleration["key"] for toleration in pod["tolerations"]} == {"nvidia.com/gpu", "spot"}
    (worker,) = pod["containers"]
    limits = worker["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    readme = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"manifests/paper-[\w-]+\.yaml", readme))
    assert documented
    for path in documented:
        # A pod holds one actor of each manifest that the documents send here, and a task beside
        # it; the head, which has no GPU, holds none.
        compute = load_manifest(ROOT / path).compute
        assert (compute.actors, compute.gpus_per_actor) == (group["maxReplicas"], 1.0)
        assert float(limits["cpu"]) > compute.cpus_per_actor
    assert "actors: 8, gpus_per_actor: 1" in (FOLDER / "rayjob.yaml").read_text()


def test_the_nightly_job_may_create_runs_and_nothing_else() -> None:
    (rule,) = the("Role")["rules"]
    assert (rule["apiGroups"], rule["resources"], rule["verbs"]) == (
        ["ray.io"],
        ["rayjobs"],
        ["create", "get"],
    )
    account = the("ServiceAccount")["metadata"]["name"]
    assert [subject["name"] for subject in the("RoleBinding")["subjects"]] == [account]
    assert the("RoleBinding")["roleRef"]["name"] == the("Role")["metadata"]["name"]
    pod = the("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    # `kubectl create` can make it night after night only if each gets a name of its own.
    assert RAYJOB["metadata"] == {"generateName": "conceptprune-"}


def test_all_tries_of_a_night_end_before_the_documented_longest_run() -> None:
    runbook = (ROOT / "cluster" / "RUNBOOK.md").read_text(encoding="utf-8")
    hours = re.search(r"\| longest night \|.*\| (\d+) h \|", runbook)
    assert hours
    longest = int(hours[1]) * 3600
    spec = RAYJOB["spec"]
    assert spec["activeDeadlineSeconds"] * (1 + spec["backoffLimit"]) < longest
    night = the("CronJob")["spec"]
    assert night["concurrencyPolicy"] == "Forbid"
    assert night["jobTemplate"]["spec"]["activeDeadlineSeconds"] == longest
    assert night["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_every_pod_that_kuberay_makes_of_a_job_may_run_in_a_restricted_namespace() -> None:
    composed = dict(composed_pods(RAYJOB["spec"]))
    assert set(composed) == {"head", "gpu-spot", "submitter"}
    assert [(name, found) for name, pod in composed.items() for found in violations(pod)] == []


def test_every_written_pod_may_run_in_a_restricted_namespace() -> None:
    found = list(pods(every_document()))
    assert len(found) == 7
    assert [violations(pod) for pod in found] == [[]] * len(found)


@pytest.mark.parametrize("lacking", ["submitterPodTemplate", "autoscalerOptions"])
def test_without_their_own_security_kuberays_containers_break_the_standard(lacking: str) -> None:
    spec = copy.deepcopy(RAYJOB["spec"])
    (spec if lacking in spec else spec["rayClusterSpec"]).pop(lacking)
    assert any(violations(pod) for _, pod in composed_pods(spec))


def test_no_pod_has_credentials() -> None:
    for pod in pods(every_document()):
        for container in pod["containers"]:
            names = {variable["name"] for variable in container.get("env", [])}
            assert names <= {"HF_HOME", "OMP_NUM_THREADS"}
    for name in FILES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not re.search(r"AKIA|secret_?access|password|secretKeyRef", text, re.IGNORECASE)
