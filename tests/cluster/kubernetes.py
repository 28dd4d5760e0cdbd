"""Kubernetes objects held against the schemas of those who read them: KubeRay's and Kubernetes'."""

import copy
import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator, ValidationError

KUBERNETES = "1.34"
CRDS = Path(__file__).with_name("kuberay_crds")
CRD_OF = {"RayJob": "ray.io_rayjobs", "RayCronJob": "ray.io_raycronjobs"}

Json = dict[str, Any]


def check(document: Json) -> None:
    """Refuse what an API server with strict field validation would refuse.

    Raises:
        ValidationError: a field that is unknown, missing or of another type; or an API version that
            the schemas do not have.
    """
    if document["kind"] in CRD_OF:
        if document["apiVersion"] != "ray.io/v1":
            raise ValidationError(f"no such version: {document['apiVersion']}")
        for error in ray_errors(document):
            raise error
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def ray_errors(document: Json) -> Iterator[ValidationError]:
    """Everything that KubeRay's schema has against one of its objects."""
    yield from _ray_validator(document["kind"]).iter_errors(document)


@cache
def _ray_validator(kind: str) -> Draft202012Validator:
    with gzip.open(CRDS / f"{CRD_OF[kind]}.json.gz") as stream:
        (version,) = json.load(stream)["spec"]["versions"]
    return Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"]))


def _strict(schema: Any) -> Any:
    """A structural schema whose objects have no fields but those that it names."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(part) for name, part in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    return strict


def composed_pods(job: Json) -> Iterator[tuple[str, Json]]:
    """The pods that KubeRay 1.7 makes of a RayJob's spec, with the containers that it adds.

    From its source: `common/pod.go` (the autoscaler beside the head, `wait-gcs-ready` before a
    worker) and `common/job.go` (the submitter's pod). Names and security are all that is composed.
    """
    cluster = job["rayClusterSpec"]
    head: Json = copy.deepcopy(cluster["headGroupSpec"]["template"]["spec"])
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        head["containers"].append(_container("autoscaler", options.get("securityContext")))
    yield "head", head
    for group in cluster["workerGroupSpecs"]:
        worker: Json = copy.deepcopy(group["template"]["spec"])
        ray = worker["containers"][0]
        waiting = _container("wait-gcs-ready", ray.get("securityContext"))
        worker["initContainers"] = [*worker.get("initContainers", []), waiting]
        yield group["groupName"], worker
    template = job.get("submitterPodTemplate", {})
    default: Json = {"containers": [_container("ray-job-submitter", None)]}
    yield "submitter", template.get("spec", default)


def _container(name: str, security: Json | None) -> Json:
    return {"name": name} if security is None else {"name": name, "securityContext": security}


def violations(pod: Json) -> list[str]:
    """Where a pod breaks the Pod Security Standard "restricted", as `container: what`."""
    whole = pod.get("securityContext", {})
    found = []
    for box in [*pod.get("initContainers", []), *pod["containers"]]:
        own = {**whole, **box.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        held = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in capabilities.get("drop", []),
            "capabilities.add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "privileged": not own.get("privileged", False),
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type")
            in ("RuntimeDefault", "Localhost"),
        }
        found += [f"{box['name']}: {rule}" for rule, holds in held.items() if not holds]
    found += [
        f"volume {volume['name']}"
        for volume in pod.get("volumes", [])
        if set(volume) - {"name"} > {"configMap", "emptyDir", "secret", "projected", "csi"}
    ]
    found += [f"pod: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    return found
