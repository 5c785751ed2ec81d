"""What a run was made of: ``manifest.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that ran the run."""

    uname: Annotated[str, Meta(description="`uname -a` without the host's name")] = ""
    cpus: Annotated[int, Meta(ge=0, description="processors the run could use")] = 0
    memory: Annotated[int, Meta(ge=0, description="bytes")] = 0


class KernelEntry(msgspec.Struct, kw_only=True):
    """One kernel of the run."""

    label: Annotated[str, Meta(description="short name, unique in the run; records refer to it")]
    spec: Annotated[str, Meta(description='what the user asked for, for example "debian:7.3"')]
    release: Annotated[str, Meta(description="`uname -r`")] = ""
    digest: Annotated[str, Meta(description="SHA-256 of the image's contents")] = ""
    config_digest: Annotated[str, Meta(description="SHA-256 of its configuration")] = ""
    provenance: Annotated[dict[str, str], Meta(description="packages, versions, hashes, or file paths")] = {}
    role: Annotated[Literal["kernel", "baseline"], Meta(description="under test, or compared with")] = "kernel"
    capabilities: Annotated[dict[str, Any], Meta(description="what the probe found that it can do")] = {}
    qemu_cmdlines: Annotated[list[str], Meta(description="one for each kind of machine booted")] = []
    accelerator: Annotated[str, Meta(description='"kvm", "tcg", or "none" for real machines')] = ""
    accelerator_reason: Annotated[str, Meta(description="why that one")] = ""
    noise: Annotated[
        dict[str, str],
        Meta(description="where wall time was measured: what it depends on beside the kernel; `host ...`: of the VM's"),
    ] = {}
    unfit: Annotated[list[str], Meta(description="why its wall time decides nothing; empty: it may")] = []
    boot_s: Annotated[list[float], Meta(description="seconds from start to the probe's first reply, each boot")] = []

    @property
    def emulated(self) -> bool:
        """It ran under TCG: nanoseconds say nothing about hardware, and a wake-up from one CPU to another is dear."""
        return self.accelerator == "tcg"


class Manifest(msgspec.Struct, kw_only=True):
    """The whole run. Written at the start, and again with `finished` at the end."""

    schema_version: Annotated[Literal[1], Meta(description="version of this schema")] = 1
    kst_version: Annotated[str, Meta(description="version of kselftests-py")] = ""
    started: Annotated[str, Meta(description="UTC, ISO 8601")] = ""
    finished: Annotated[str, Meta(description="UTC, ISO 8601; empty while running, and for ever if it was killed")] = ""
    boot_failed: Annotated[str, Meta(description="why a kernel under test did not build or boot; empty: it did")] = ""
    host: Annotated[Host, Meta(description="the machine that ran it")] = Host()
    kernels: Annotated[list[KernelEntry], Meta(description="in the order they were given")] = []
    config_differences: Annotated[
        list[str],
        Meta(
            description="symbols in which the configurations of one kernel and one baseline differ, if both are known"
        ),
    ] = []
    probe_digest: Annotated[str, Meta(description="SHA-256 of the probe")] = ""
    versions: Annotated[dict[str, str], Meta(description="of python, qemu, virtme-ng, pytest, ...")] = {}
    seeds: Annotated[
        dict[str, int], Meta(description="what tests drew their random choices from, by test (`kst explore`: its own)")
    ] = {}
    options: Annotated[dict[str, Any], Meta(description="the run's options, defaults included")] = {}
    argv: Annotated[list[str], Meta(description="the command line")] = []

    def kernel(self, label: str) -> KernelEntry | None:
        """The kernel of that label, or None."""
        return next((entry for entry in self.kernels if entry.label == label), None)

    def labels(self, role: Literal["kernel", "baseline"]) -> list[str]:
        """Of the kernels under test, or of what they are compared with."""
        return [entry.label for entry in self.kernels if entry.role == role]
