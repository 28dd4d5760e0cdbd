"""The Kubernetes objects of `cluster/kuberay`, as far as we use them, from public documentation.

Written from KubeRay's API reference (RayJob, RayCluster, RayCronJob of ray.io/v1) and Kubernetes'
own (batch/v1, rbac/v1, core/v1). It is strict where an API server is lenient: a field that is not
here is refused, be it a slip of the pen or one that nobody has looked up.
"""

# ruff: noqa: N815 - the names are those of the YAML

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1)]
Labels = dict[Text, Text]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")] | int
Cron = Annotated[str, StringConstraints(pattern=r"^\S+ \S+ \S+ \S+ \S+$")]
Seconds = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Strict: no other fields, no other types, and the names of the YAML."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Metadata(Section):
    name: Text | None = None
    generateName: Text | None = None
    annotations: Labels = {}
    labels: Labels = {}

    @model_validator(mode="after")
    def _has_one_name(self) -> "Metadata":
        if (self.name is None) == (self.generateName is None):
            raise ValueError("one of name and generateName")
        return self


class Resources(Section):
    requests: dict[Text, Quantity]
    limits: dict[Text, Quantity]


class EnvVar(Section):
    name: Text
    value: str


class VolumeMount(Section):
    name: Text
    mountPath: Annotated[str, StringConstraints(pattern="^/")]
    readOnly: bool = False


class ConfigMapVolume(Section):
    name: Text


class EmptyDir(Section):
    medium: Literal["", "Memory"] = ""
    sizeLimit: Quantity | None = None


class Volume(Section):
    name: Text
    configMap: ConfigMapVolume | None = None
    emptyDir: EmptyDir | None = None


class Capabilities(Section):
    drop: list[Text]


class ContainerSecurity(Section):
    allowPrivilegeEscalation: bool
    capabilities: Capabilities


class SeccompProfile(Section):
    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]


class PodSecurity(Section):
    runAsNonRoot: bool
    runAsUser: Count
    runAsGroup: Count
    fsGroup: Count
    seccompProfile: SeccompProfile


class Toleration(Section):
    key: Text
    operator: Literal["Exists", "Equal"]
    value: Text | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Container(Section):
    name: Text
    image: Annotated[str, StringConstraints(pattern=r"^\S+:[\w.-]+$")]
    command: list[Text] = []
    args: list[Text] = []
    env: list[EnvVar] = []
    resources: Resources
    securityContext: ContainerSecurity
    volumeMounts: list[VolumeMount] = []


class PodSpec(Section):
    serviceAccountName: Text
    restartPolicy: Literal["Always", "OnFailure", "Never"]
    nodeSelector: Labels = {}
    tolerations: list[Toleration] = []
    terminationGracePeriodSeconds: Count = 30
    securityContext: PodSecurity
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []

    @model_validator(mode="after")
    def _mounts_have_volumes(self) -> "PodSpec":
        volumes = {volume.name for volume in self.volumes}
        mounted = {mount.name for box in self.containers for mount in box.volumeMounts}
        if mounted - volumes:
            raise ValueError(f"no such volume: {mounted - volumes}")
        return self


class PodTemplate(Section):
    spec: PodSpec


class AuthOptions(Section):
    mode: Literal["disabled", "token"]


class AutoscalerOptions(Section):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: Count
    upscalingMode: Literal["Conservative", "Default", "Aggressive"] = "Default"
    resources: Resources


class HeadGroup(Section):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    enableIngress: bool
    rayStartParams: dict[Text, str]
    template: PodTemplate


class WorkerGroup(Section):
    groupName: Text
    replicas: Count
    minReplicas: Count
    maxReplicas: Count
    rayStartParams: dict[Text, str]
    template: PodTemplate

    @model_validator(mode="after")
    def _replicas_are_in_order(self) -> "WorkerGroup":
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError("minReplicas <= replicas <= maxReplicas")
        return self


class RayClusterSpec(Section):
    rayVersion: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]


class RayJobSpec(Section):
    entrypoint: Text
    runtimeEnvYAML: str = ""
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    backoffLimit: Count
    activeDeadlineSeconds: Seconds
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Count = 0
    suspend: bool = False
    rayClusterSpec: RayClusterSpec

    @model_validator(mode="after")
    def _ttl_needs_shutdown(self) -> "RayJobSpec":
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        return self


class RayJob(Section):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class RayCronJobSpec(Section):
    schedule: Cron
    suspend: bool = False
    jobTemplate: RayJobSpec


class RayCronJob(Section):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCronJob"]
    metadata: Metadata
    spec: RayCronJobSpec


class JobSpec(Section):
    backoffLimit: Count
    template: PodTemplate


class JobTemplate(Section):
    spec: JobSpec


class CronJobSpec(Section):
    schedule: Cron
    timeZone: Text
    concurrencyPolicy: Literal["Allow", "Forbid", "Replace"]
    startingDeadlineSeconds: Seconds
    successfulJobsHistoryLimit: Count
    failedJobsHistoryLimit: Count
    jobTemplate: JobTemplate


class CronJob(Section):
    apiVersion: Literal["batch/v1"]
    kind: Literal["CronJob"]
    metadata: Metadata
    spec: CronJobSpec


class ServiceAccount(Section):
    apiVersion: Literal["v1"]
    kind: Literal["ServiceAccount"]
    metadata: Metadata


class PolicyRule(Section):
    apiGroups: list[str]
    resources: list[Text]
    verbs: list[Literal["create", "get", "list", "watch", "update", "patch", "delete"]]


class Role(Section):
    apiVersion: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["Role"]
    metadata: Metadata
    rules: list[PolicyRule]


class RoleRef(Section):
    apiGroup: Literal["rbac.authorization.k8s.io"]
    kind: Literal["Role", "ClusterRole"]
    name: Text


class Subject(Section):
    kind: Literal["ServiceAccount", "User", "Group"]
    name: Text


class RoleBinding(Section):
    apiVersion: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["RoleBinding"]
    metadata: Metadata
    roleRef: RoleRef
    subjects: list[Subject]


KINDS: dict[str, type[Section]] = {
    kind.__name__: kind for kind in (RayJob, RayCronJob, CronJob, ServiceAccount, Role, RoleBinding)
}


def checked(content: dict[str, Any]) -> Any:
    """An object of one of `KINDS`; refuses what the schema does not have."""
    return KINDS[content["kind"]].model_validate(content)
