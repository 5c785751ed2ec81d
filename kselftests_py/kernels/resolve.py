"""From a spec to a kernel: the one way in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import apt, build, debian, image, store
from kselftests_py.kernels.debian import NoSuchKernel
from kselftests_py.kernels.image import KernelImage
from kselftests_py.kernels.spec import BuildSpec, CachedSpec, DebianSpec, ImageSpec, RunningKernel, parse

_BASELINE = "7.2"
_RWP = "CONFIG_USERFAULTFD_RWP"

Progress = Callable[[str], None]


def _quiet(_line: str) -> None:
    pass


def resolve(spec: str, progress: Progress = _quiet) -> KernelImage | RunningKernel:
    """The kernel that *spec* names, fetched or built into the cache if need be; *progress* is told of each step.

    Raises UsageError if the spec or what it names is wrong (NoSuchKernel if the mirror lacks it), BootError if the
    kernel does not build, and HarnessError if it cannot be had: no network and no cache, a mirror that answers with
    rubbish, a full disk.
    """
    wanted = parse(spec)
    if isinstance(wanted, RunningKernel):
        return wanted
    if isinstance(wanted, ImageSpec):
        return image.from_files(wanted)
    if isinstance(wanted, CachedSpec):
        return _cached(wanted, progress)
    with store.disk_errors():
        return build.resolve(wanted, progress) if isinstance(wanted, BuildSpec) else _debian(wanted, progress)


def newest_without_rwp(progress: Progress = _quiet) -> tuple[KernelImage, str]:
    """The wp-only kernel to compare with, and the sentence to print if it is not Debian's 7.2 ("" if it is).

    Whether a kernel lacks RWP is read from its configuration. Raises HarnessError if each has it.
    """
    try:
        return _resolve_debian(f"debian:{_BASELINE}", progress), ""
    except NoSuchKernel:
        pass
    with store.disk_errors(), store.lock(progress) as root:
        apt.refresh(root / "apt", progress)
        series = list(dict.fromkeys(kernel.series for kernel in debian.kernels(root / "apt")))
    for each in series:
        kernel = _resolve_debian(f"debian:{each}", progress)
        if kernel.config_value(_RWP) is None:
            return kernel, (
                f"The Debian mirror has no {_BASELINE} any more: the baseline is {kernel.release}, "
                f"the newest there without {_RWP}."
            )
    raise HarnessError(f"each kernel on the Debian mirror has {_RWP}; name a baseline with --baseline image:PATH")


def _resolve_debian(spec: str, progress: Progress) -> KernelImage:
    kernel = resolve(spec, progress)
    assert isinstance(kernel, KernelImage)
    return kernel


@store.disk_errors()
def stored(digest: str, progress: Progress = _quiet) -> KernelImage | None:
    """The kernel in the cache whose digest begins with *digest*, or None."""
    return store.find(lambda kernel: kernel.digest.startswith(digest), progress)


def _cached(wanted: CachedSpec, progress: Progress) -> KernelImage:
    found = stored(wanted.digest, progress)
    if not found:
        raise UsageError(f"{wanted.spec}: no whole kernel of that digest in the cache; kst kernels lists what there is")
    # Its own selftests need its source. A spec with a path in it may mean something else by now.
    known = {"source": found.spec} if re.fullmatch(r"source:[\d.]+(\+[a-z]+)*", found.spec) else {}
    return replace(found, spec=wanted.spec, provenance=found.provenance | known)


def _debian(wanted: DebianSpec, progress: Progress) -> KernelImage:
    damages: list[str] = []

    def damaged(line: str) -> None:
        if line not in damages:
            damages.append(line)
            progress(line)

    with store.lock(progress) as root:
        # An exact kernel that is in the cache needs neither the mirror nor its index.
        cached = store.find(lambda kernel: wanted.want in _exact_names(kernel), damaged)
        if cached:
            return replace(cached, spec=wanted.spec)
        try:
            kernel = _fetch(wanted, root / "apt", progress, damaged)
        except UsageError:
            raise
        except HarnessError as error:
            remembered = store.recall(wanted.spec, damaged)
            if not remembered and damages:
                raise HarnessError(f"{damages[0]} and cannot be fetched again: {error}") from error
            if not remembered:
                raise
            progress(f"{error} - taking what {wanted.spec} was last time: {remembered.release}")
            return remembered
        store.remember(wanted.spec, kernel)
        return kernel


def _exact_names(kernel: KernelImage) -> set[str]:
    release = kernel.release
    return {release, release.removesuffix(f"-{apt.ARCHITECTURE}"), kernel.provenance.get("version", release)}


def _fetch(wanted: DebianSpec, apt_root: Path, progress: Progress, damaged: Progress) -> KernelImage:
    asked = apt.refresh(apt_root, progress)
    try:
        chosen = debian.choose(debian.kernels(apt_root), wanted.want)
    except NoSuchKernel:
        # The index may be a day old: ask once more before saying no.
        if asked:
            raise
        apt.refresh(apt_root, progress, force=True)
        chosen = debian.choose(debian.kernels(apt_root), wanted.want)
    packages = debian.packages_of(apt_root, chosen)
    provenance = {
        "version": chosen.version,
        "suites": " ".join(apt.suites_of(apt_root, chosen.image.name, chosen.version)),
        **{package.name: f"{package.version} sha256:{package.sha256}" for package in packages},
    }
    sums = {name: text for name, text in provenance.items() if name != "suites"}
    cached = store.find(lambda kernel: sums.items() <= kernel.provenance.items(), damaged)
    if not cached:

        def build(entry: Path) -> None:
            debian.unpack(apt_root, packages, chosen.release, entry, progress)
            progress(f"indexing the modules of {chosen.release}")
            debian.depmod(entry, chosen.release)

        added = store.add(f"debian:{chosen.version}", chosen.release, provenance, build)
        cached = store.find(lambda kernel: kernel.digest == added.digest, damaged)
        if not cached:
            raise HarnessError(f"{store.root()}: what was stored cannot be read back; check the disk")
    return replace(cached, spec=wanted.spec)
