"""Define the nightly's configuration: the matrix, where its cells run, what each may take."""

from dataclasses import dataclass, field
from enum import StrEnum


class Launcher(StrEnum):
    """What starts the cells."""

    local = "local"
    slurm = "slurm"
    kubernetes = "kubernetes"


@dataclass
class DeviceSlurmConfig:
    """What a device's cells ask Slurm for; null leaves it to the cluster."""

    partition: str | None = None
    gres: str | None = None
    cpus: int | None = None
    memory_gib: float | None = None
    account: str | None = None
    at_once: int = 1


@dataclass
class DeviceKubernetesConfig:
    """What a device's pods ask Kubernetes for."""

    resources: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    at_once: int = 1


@dataclass
class DeviceConfig:
    """Where a device's cells run: each slot is a ``CUDA_VISIBLE_DEVICES`` for a cell at a time.

    With ``builds_from`` they calibrate nothing: each builds an engine of the bundle that the cell
    of that device published, for the GPU type ``target`` (``sm_89``), and checks it.
    """

    builds_from: str | None = None
    target: str | None = None
    slots: list[str] = field(default_factory=lambda: [""])
    overrides: list[str] = field(default_factory=list)
    artifacts_dir: str | None = None
    slurm: DeviceSlurmConfig = field(default_factory=DeviceSlurmConfig)
    kubernetes: DeviceKubernetesConfig = field(default_factory=DeviceKubernetesConfig)


@dataclass
class SlurmConfig:
    """What holds for every Slurm job."""

    setup: list[str] = field(default_factory=list)


@dataclass
class KubernetesConfig:
    """What holds for every Job: its image, and the volume that holds code's output and models."""

    image: str = "st-trt"
    namespace: str | None = None
    claim: str = "nightly"
    mount: str = "/nightly"
    wait_s: float | None = None


@dataclass
class NightlyConfig:
    """One night: models × precisions × devices, less what is excluded."""

    models: list[str] = field(default_factory=lambda: ["minilm"])
    precisions: list[str] = field(default_factory=lambda: ["fp32", "fp16", "int8"])
    devices: list[str] = field(default_factory=lambda: ["cpu"])
    custom_models: dict[str, list[str]] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    overrides: dict[str, list[str]] = field(default_factory=dict)
    timeout_s: float = 3600.0
    timeouts: dict[str, float] = field(default_factory=dict)
    grace_s: float = 20.0
    output: str = "artifacts/nightly"
    artifacts_dir: str = "artifacts"
    night: str | None = None
    history: str | None = None
    launcher: Launcher = Launcher.local
    hardware: dict[str, DeviceConfig] = field(default_factory=dict)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)


def register_schema() -> None:
    """Store the schema that ``conf/nightly.yaml`` names first in its defaults list."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="nightly_schema", node=NightlyConfig)
