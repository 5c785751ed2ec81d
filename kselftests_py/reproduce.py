"""``kst reproduce``: the kernels of a capsule had again, its tests run again, and whether they said the same."""

from __future__ import annotations

import platform
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kselftests_py import run
from kselftests_py.errors import HarnessError, KstError, UsageError
from kselftests_py.kernels import KernelImage, config, recipe, resolve, stored
from kselftests_py.kernels.recipe import Recipe
from kselftests_py.reports import reply
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import KernelEntry, Record, RunFolder, Verdict, capsule, differences
from kselftests_py.results.capsule import Capsule
from kselftests_py.results.differences import Again, Compared, Reproduction


class Asked(msgspec.Struct, frozen=True):
    """The options of a run, as a capsule has them: those of ``run.Options`` that a stranger may set, bounded."""

    suites: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=100)]
    expression: Annotated[str, Meta(max_length=4096)]
    accel: Literal["auto", "kvm", "tcg"]
    mode: Literal["exact", "wall", "both"]
    cpus: Annotated[int, Meta(ge=1, le=64)]
    memory: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[KMGkmg]?$")]
    timeout: Annotated[float, Meta(ge=1, le=86_400)]
    fail_fast: bool
    controls: bool
    blocks: Annotated[int, Meta(ge=0, le=1000)] = 0  # capsules of before there was a comparison in wall time
    margin: Annotated[float, Meta(ge=0, le=1)] = 0.03
    lie: Literal["", "slow_resolve"] = ""
    seed: Annotated[int, Meta(ge=0, le=run.MAX_SEED)] = 0
    where: bool = False
    apart: bool = False


def reproduce(
    given: Path, out: Path | None, source: Path | None, trust: bool, view: TerminalView
) -> tuple[RunFolder, Reproduction, Verdict]:
    """Run the capsule (or run folder) *given* again.

    *source* is a clone of the kernel, for one that was built from a commit; *trust* allows to build patches and
    configurations out of the capsule: a kernel's build runs what its Makefiles say.

    :raises UsageError: there is no such capsule, it is hostile, or *source* or *trust* is needed.
    :raises HarnessError: it cannot be reproduced here.
    """
    read = capsule.open_(given)
    asked = _asked(read)
    run.check(run.Options(**asked, out=out))
    numbers = range(len(read.manifest.kernels))
    for (
        number
    ) in numbers:  # what is refused is refused before the first is built, and all are had before the first boot
        _check(read, number, trust)
    kernels = [_again(read, number, source, view) for number in numbers]
    roles = [entry.role for entry in read.manifest.kernels]
    specs, baselines = (
        [one.spec for one, role in zip(kernels, roles, strict=True) if role == wanted]
        for wanted in ("kernel", "baseline")
    )
    if not specs or len(baselines) > 1:
        raise HarnessError(f"{read.path}: has {len(specs)} kernels and {len(baselines)} baselines: no run of kst run")
    foreign = read.foreign()
    if foreign:
        view.note(f"this kst is another than the capsule's in {', '.join(foreign[:4])}{' ...' if foreign[4:] else ''}")
    options = run.Options(specs, baselines[0] if baselines else "none", **asked, out=out)
    folder, ended = run.run(options, view)
    seen = Reproduction(kernels, foreign, compared(read, folder))
    verdict = ended if ended.exit_code == run.INTERRUPTED else judge(read, folder, seen)
    reply.write_reproduced(folder, read, seen, verdict)
    return folder, seen, verdict


def _asked(read: Capsule) -> dict[str, Any]:
    if isinstance(command := read.manifest.options.get("command"), str):
        again = "; kst explore --replay FILE runs what it found" if command == "explore" else ""
        raise HarnessError(f"{read.path}: is of kst {command:.20}, and only kst run can be reproduced{again}")
    try:
        asked = msgspec.convert(read.manifest.options, Asked)
    except msgspec.ValidationError as error:
        raise HarnessError(f"{read.path}: its options are none of kst run ({error}): cannot be reproduced") from None
    if unknown := set(asked.suites) - set(run.suite_names()):
        raise HarnessError(f"{read.path}: this kst has no suite {min(unknown)!r}; take the kst that wrote it")
    return msgspec.structs.asdict(asked)


def _check(read: Capsule, number: int, trust: bool) -> None:
    """Refuse what cannot be had here, and what is to be built out of the capsule without *trust*."""
    entry, how = read.manifest.kernels[number], read.index.recipes[number]
    if how.kind == "host":
        if platform.release() != entry.release:
            raise HarnessError(f"{read.path}: ran on a host with {entry.release}, this one has {platform.release()}")
        return
    if not re.fullmatch(r"[0-9a-f]{64}", entry.digest):
        raise HarnessError(f"{read.path}: {entry.label} has no digest: cannot be reproduced; {how.problem}")
    brings = [name for name in read.kernel_files(number) if name != "config"]
    if brings and not trust and not stored(entry.digest):
        raise UsageError(
            f"{read.path}: {entry.label} is to be built with {len(brings)} files of the capsule, and a build runs what "
            f"Makefiles say: read them (unzip -p {read.path.name} 'kernels/{number}/*'), then give --trust"
        )


def _again(read: Capsule, number: int, source: Path | None, view: TerminalView) -> Again:
    """Kernel *number* of the capsule, which was checked, had again: cached, fetched or built."""
    entry, how = read.manifest.kernels[number], read.index.recipes[number]
    if how.kind == "host":
        return Again(entry.label, "host", "", True)
    if how.kind != "debian" and (found := stored(entry.digest, view.note)):
        return Again(entry.label, f"cached:{entry.digest}", found.digest, True)
    files = read.kernel_files(number)
    with tempfile.TemporaryDirectory(prefix="kst-") as scratch:
        spec = recipe.spec_of(how, files, Path(scratch), source)
        try:
            kernel = resolve(spec, view.note)
        except KstError as error:
            raise HarnessError(f"{read.path}: {entry.label} cannot be had again: {error}") from error
    assert isinstance(kernel, KernelImage)
    same = kernel.digest == entry.digest
    again = Again(
        entry.label, spec if how.kind == "debian" else f"cached:{kernel.digest}", kernel.digest, same,
        "" if same else _why(entry, how, kernel, files.get("config")),
    )  # fmt: skip
    view.note(f"{entry.label}: {'the same bytes' if same else f'not the same bytes: {again.why}'}")
    return again


def _why(entry: KernelEntry, how: Recipe, kernel: KernelImage, config_then: bytes | None) -> str:
    """Why a kernel made by the same recipe is not the same bytes. Raises HarnessError if it is another source."""
    then, now = entry.provenance, kernel.provenance
    packages = [name for name in then if name.startswith("linux-") and then[name] != now.get(name)]
    if packages:
        there = now.get(packages[0], "nothing").split()[0]
        raise HarnessError(f"{entry.label} cannot be had again: {packages[0]} is {there} now, was {then[packages[0]]}")
    if then.get("compiler") != now.get("compiler"):
        return f"{now.get('compiler')} instead of {then.get('compiler')}"
    if config_then and kernel.config:
        with tempfile.TemporaryDirectory(prefix="kst-") as scratch:
            path = Path(scratch, "config")
            path.write_bytes(config_then)
            symbols = config.differing(path, kernel.config)
        if symbols:
            return f"{len(symbols)} symbols of the configuration differ, such as {symbols[0]}"
    return "the same recipe, compiler and configuration came out otherwise"


def compared(read: Capsule, folder: RunFolder) -> list[Compared]:
    """Kernel by kernel, the capsule's records against those of *folder*. Labels may differ, the order does not.

    A run that did not finish is compared in what it had come to.
    """
    records, found = folder.records(), []
    for then, now in zip(read.manifest.kernels, folder.manifest().kernels, strict=True):
        before, after = _of(read.records, then.label), _of(records, now.label)
        if not read.manifest.finished:
            known = {record.id for record in before}
            after = [record for record in after if record.id in known]
        found.append(differences.compare(then.label, before, after))
    return found


def _of(records: list[Record], label: str) -> list[Record]:
    return [record for record in records if record.kernel == label]


def judge(read: Capsule, folder: RunFolder, seen: Reproduction) -> Verdict:
    """SAME (0), NOT THE SAME (1), or CANNOT TELL (3): nothing was compared, or only the environment differs."""
    then, now = read.manifest, folder.manifest()
    tests = sum(one.tests for one in seen.compared)
    figures = sum(len(one.figures) for one in seen.compared)
    outcomes = [each for one in seen.compared for each in one.outcomes]
    changed = [each for one in seen.compared for each in one.changed]
    lost = [each for one in seen.compared for each in one.missing]
    if not read.records and not then.boot_failed:
        return Verdict("CANNOT TELL", "the capsule has no result to compare with", 3)
    if not now.finished:
        return Verdict("CANNOT TELL", "the run did not finish", 3)
    if bool(then.boot_failed) != bool(now.boot_failed):
        return Verdict("NOT THE SAME", now.boot_failed or f"it boots here, and did not: {then.boot_failed}", 1)
    told = f"{tests} tests and {figures} exact figures compared"
    judged = [each for each in outcomes if each.judged]
    if judged or changed:
        return Verdict("NOT THE SAME", f"{len(judged)} outcomes and {len(changed)} figures differ; {told}", 1)
    if outcomes or lost:
        what = f"{len(outcomes)} tests could not be judged on one side, {len(lost)} figures are on one side only"
        return Verdict("CANNOT TELL", f"{what}; {told}", 3)
    if not tests:
        return Verdict("CANNOT TELL", "the capsule has no test to compare", 3)
    return Verdict("SAME", told, 0)
