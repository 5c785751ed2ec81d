"""What a machine's nanoseconds depend on beside its kernel, and whether they may decide anything.

Read at the begin and at the end of each block, so that a load that came meanwhile is seen. What a machine answers is
not trusted: only what is looked for is taken, and texts are bounded.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence

import msgspec

from kselftests_py.machines.machine import Machine

# Of each file the first 4 KiB; a file that is not there is left out.
_FILES = (
    "/proc/loadavg /proc/stat /proc/cpuinfo /sys/devices/system/cpu/online /sys/devices/system/cpu/smt/active"
    " /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor /sys/devices/system/cpu/cpufreq/boost"
    " /sys/devices/system/cpu/intel_pstate/no_turbo /sys/devices/system/cpu/vulnerabilities/*"
    " /sys/devices/system/clocksource/clocksource0/current_clocksource /sys/kernel/mm/transparent_hugepage/enabled"
)
_COMMAND = f'for f in {_FILES}; do [ -r "$f" ] && echo "== $f" && head -c 4096 "$f" && echo; done; :'
_BOUND_S = 20.0
_TEXT = 200
# Read through a port or counted by ticks: slow or coarse, and the watchdog falls back to them when a clock is unstable.
_POOR_CLOCKS = {"acpi_pm", "hpet", "jiffies", "pit", "refined-jiffies"}
_STEAL = 0.02
"""Share of the CPU time that the hypervisor may give to others."""


class Passport(msgspec.Struct, frozen=True):
    """One reading. ``facts`` are as the kernel writes them; ``busy`` and ``steal`` are clock ticks since boot."""

    facts: dict[str, str]
    cpus: int = 0
    load: float = 0.0
    busy: int = 0
    steal: int = 0


def read(machine: Machine) -> Passport:
    """The machine's passport now.

    :raises ChannelError, OSError, subprocess.SubprocessError: it does not run commands.
    """
    return parse(machine.run(_COMMAND, _BOUND_S)[1])


def parse(text: str) -> Passport:
    """What the command printed."""
    files: dict[str, str] = {}
    for part in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        files[name.strip()] = " ".join(body.split())[:4096]
    facts = {
        "governor": _several(files, "scaling_governor") or "none",
        "turbo": files.get("/sys/devices/system/cpu/cpufreq/boost", ""),
        "no_turbo": files.get("/sys/devices/system/cpu/intel_pstate/no_turbo", ""),
        "SMT": {"1": "on", "0": "off"}.get(files.get("/sys/devices/system/cpu/smt/active", ""), "unknown"),
        "clocksource": files.get("/sys/devices/system/clocksource/clocksource0/current_clocksource", ""),
        "THP": _chosen(files.get("/sys/kernel/mm/transparent_hugepage/enabled", "")),
        "mitigations": _mitigations(files),
        "virtualised": "yes" if re.search(r"\bhypervisor\b", files.get("/proc/cpuinfo", "")) else "no",
        "CPU": _cpu(files.get("/proc/cpuinfo", "")),
    }
    ticks = _ticks(files.get("/proc/stat", ""))
    return Passport(
        {name: value[:_TEXT] for name, value in facts.items() if value},
        _cpus(files.get("/sys/devices/system/cpu/online", "")),
        _number(files.get("/proc/loadavg", "")),
        sum(ticks),
        ticks[7] if len(ticks) > 7 else 0,
    )


def summary(readings: Sequence[Passport]) -> dict[str, str]:
    """What the manifest keeps of all readings: the last facts, the median and the highest load, the share stolen."""
    if not readings:
        return {}
    loads = [one.load for one in readings]
    return readings[-1].facts | {
        "CPUs": str(readings[-1].cpus),
        "load": f"{statistics.median(loads):.2f} (highest {max(loads):.2f}, {len(loads)} readings)",
        "steal": f"{100 * stolen(readings):.1f} %",
    }


def stolen(readings: Sequence[Passport]) -> float:
    """The share of CPU time that the hypervisor gave to others, between the first and the last reading of a boot."""
    time = lost = 0
    for before, after in itertools.pairwise(readings):
        if after.busy > before.busy and after.steal >= before.steal:  # else another boot
            time += after.busy - before.busy
            lost += after.steal - before.steal
    return lost / time if time else 0.0


def unfit(readings: Sequence[Passport], who: str = "") -> list[str]:
    """Why wall time measured meanwhile decides nothing. The load is the median of all readings: one peak is no rule."""
    if not readings:
        return []
    found = []
    load, cpus = statistics.median(one.load for one in readings), readings[-1].cpus
    if cpus and load > cpus:
        found.append(f"{who}load {load:.1f} on {cpus} CPU{'' if cpus == 1 else 's'}")
    if (share := stolen(readings)) > _STEAL:
        found.append(f"{who}{100 * share:.0f} % of the CPU time was stolen by the hypervisor")
    found += sorted(
        {f"{who}clock source {clock}" for one in readings if (clock := one.facts.get("clocksource")) in _POOR_CLOCKS}
    )
    return found


def _several(files: dict[str, str], name: str) -> str:
    return ", ".join(sorted({body for path, body in files.items() if path.endswith(f"/{name}")}))


def _chosen(text: str) -> str:
    """The word in brackets of ``always [madvise] never``."""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else text


def _mitigations(files: dict[str, str]) -> str:
    """Each vulnerability that the kernel does something about, or nothing; those that the CPU has not are left out."""
    named = [
        (path.rsplit("/", 1)[1], body)
        for path, body in sorted(files.items())
        if "/vulnerabilities/" in path and not body.startswith("Not affected")
    ]
    words = [f"{name} {'off' if body.startswith('Vulnerable') else 'on'}" for name, body in named]
    return ", ".join(words) or "none needed"


def _cpu(cpuinfo: str) -> str:
    found = re.search(r"model name : (.*?) (?:stepping|microcode|cpu MHz)", cpuinfo)
    return found[1] if found else ""


def _ticks(stat: str) -> list[int]:
    """The times of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    found = re.match(r"cpu((?: \d{1,18}){8})", stat)
    return [int(one) for one in found[1].split()] if found else []


def _cpus(online: str) -> int:
    """How many CPUs a list like ``0-3,8`` names."""
    total = 0
    for first, last in re.findall(r"(\d{1,5})(?:-(\d{1,5}))?", online[:_TEXT]):
        total += max(0, int(last or first) - int(first) + 1)
    return total


def _number(text: str) -> float:
    found = re.match(r"\d{1,6}(?:\.\d{1,6})?", text)
    return float(found[0]) if found else 0.0
