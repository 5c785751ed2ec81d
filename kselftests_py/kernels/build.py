"""From a source to a kernel in the cache: configured, compiled beside the source, stored by what it was made of."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kselftests_py import paths
from kselftests_py.errors import BootError, HarnessError
from kselftests_py.kernels import config, git, image, recipe, series, source, store, twin
from kselftests_py.kernels.image import KernelImage
from kselftests_py.kernels.spec import BuildSpec
from kselftests_py.kernels.steps import Step, tell

Progress = Callable[[str], None]
Patches = list[tuple[str, list[Path]]]
"""Each ``+series:`` of a spec, and its files."""

_TOOLS = {
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "git": "git",
    "xz": "xz-utils",
    "/usr/include/libelf.h": "libelf-dev",
}
_STEP = re.compile(r"  (?P<tool>[A-Z][A-Z0-9_]*(?: \[M\])?)\s+(?P<of>\S+)")
# What stands before make's own complaint, but for the steps of others: what a tool said that does not say "error".
_BEFORE_MAKE = r"^(?!  [A-Z]|make).+$(?=\n(?:  [A-Z].*\n)*make.*\*\*\* \[)"
# All that a build sees of the user's environment: kbuild reads many names (LLVM, ARCH, CROSS_COMPILE, KCFLAGS, V) that
# would change the kernel, or what make says, and are no part of the key under which it is kept.
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
# What would make two builds of the same source differ.
_FIXED = {
    "KBUILD_BUILD_TIMESTAMP": "2000-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "kst",
    "KBUILD_BUILD_HOST": "kst",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


def resolve(wanted: BuildSpec, progress: Progress) -> KernelImage:
    """The kernel of *wanted*: from the cache if the same source, config and compiler gave one, else built.

    Raises UsageError for what is wrong with the source, the series or the config; BootError if the kernel does not
    build; HarnessError if a tool is missing or too old, or the disk is full. An interrupted build goes on next time.
    """
    compiler = compiler_used()
    ours, users = config.read(config.flavour_files(wanted.flavours)), config.read(wanted.configs)
    symbols = config.text(ours | users)
    with tempfile.TemporaryDirectory(prefix="kst-series-") as temporary:
        patches = collect(wanted, Path(temporary), progress)
        told = source.told(wanted, progress)
        if told:
            provenance = _provenance(*told, wanted, symbols, compiler, patches)
            if recipe.kept(wanted, provenance) and (there := _find(provenance["build"], progress)):
                source.note_uncommitted(wanted, progress)
                return replace(there, spec=wanted.spec, provenance=provenance)
        with source.opened(wanted, progress) as workspace, source.scratch(workspace.folder) as scratch:
            tree = workspace.git("rev-parse", f"{workspace.base}^{{tree}}")
            provenance = _provenance(tree, workspace.provenance, wanted, symbols, compiler, patches)
            cached = _find(provenance["build"], progress)
            recipe.write(scratch / "recipe", wanted, workspace, [files for _, files in patches], users)
            if not cached:
                lay_out(wanted, workspace, workspace.base, patches)
                out = workspace.folder / f"out-{wanted.flavour}"
                configure(workspace.src, out, ours, users, progress)
                compile_kernel(wanted.spec, workspace.src, out, wanted.flavour, progress)
                cached = _take(wanted, out, provenance, progress)
            recipe.keep(scratch / "recipe", provenance["build"])
    # The same bytes may have been built from something else before: what counts is what was asked for now.
    return replace(cached, spec=wanted.spec, provenance=provenance)


def _provenance(
    tree: str, origin: dict[str, str], wanted: BuildSpec, symbols: str, compiler: str, patches: Patches
) -> dict[str, str]:
    """What the kernel is made of; ``build`` is the digest of all of it that the kernel's bytes depend on."""
    made_of = {
        "tree": tree,
        "flavour": wanted.flavour,
        "config": f"sha256:{hashlib.sha256(symbols.encode()).hexdigest()}",
        "compiler": compiler,
    }
    if patches:
        made_of["series"] = " ".join(f"sha256:{series.digest(files)}" for _, files in patches)
    return origin | made_of | {"build": _key({"series": "", **made_of})}


def collect(wanted: BuildSpec, scratch: Path, progress: Progress) -> Patches:
    """The series of *wanted*; *scratch* takes what is fetched. Raises as ``series.collect`` does."""
    patches = []
    for number, each in enumerate(wanted.series):
        folder = scratch / str(number)
        folder.mkdir()
        patches.append((f"+series:{each}", series.collect(each, folder, progress)))
    return patches


def lay_out(wanted: BuildSpec, workspace: source.Workspace, commit: str, patches: Patches) -> None:
    """Make the workspace's source *commit* with all on top that *wanted* asks for. Raises as ``series.apply`` does."""
    workspace.lay_out(commit)
    for name, files in patches:
        series.apply(workspace, name, files)
    if "twin" in wanted.flavours:
        twin.make_selectable(workspace.src)


def _key(parts: dict[str, str]) -> str:
    text = "".join(f"{name} {value}\n" for name, value in sorted(parts.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _find(key: str, progress: Progress) -> KernelImage | None:
    """The kernel that the inputs *key* gave; an entry names one origin, and others may have given the same bytes."""
    with store.lock(progress):
        found = store.find(lambda kernel: kernel.provenance.get("build") == key, progress)
        return found or store.recall(_answer(key), progress)


def _answer(key: str) -> str:
    """Under which name the cache remembers what *key* gave."""
    return f"build {key}"


def _cc() -> str:
    return os.environ.get("CC") or "gcc"


def compiler_used() -> str:
    """What compiles and links, in one line. Raises HarnessError naming the first tool that is missing."""
    versions = []
    for command in (_cc(), "ld"):
        try:
            told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            advice = "install gcc" if command == "ld" else "install gcc, or name a compiler, without options, with CC="
            raise HarnessError(f"{command} is not on this machine; building a kernel needs it: {advice}") from None
        versions.append(told.stdout.partition("\n")[0])
    for tool, package in _TOOLS.items():
        if not (Path(tool).exists() if tool.startswith("/") else shutil.which(tool)):
            raise HarnessError(
                f"{tool} is not on this machine; building a kernel needs it: install the package {package}"
            )
    return ", ".join(versions)


def configure(src: Path, out: Path, ours: config.Symbols, users: config.Symbols, progress: Progress) -> None:
    """Write ``out/.config``: nothing but what *ours*, under *users*, asks for and needs.

    Raises UsageError if it cannot be satisfied, HarnessError if a tool is too old.
    """
    out.mkdir(exist_ok=True)
    wanted = out / "wanted.config"
    wanted.write_text(config.text(ours | users))
    told = _make(src, out, "", ["-s", f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"], lambda line: None)
    if told.returncode:
        old = re.search(r"\*\*\* (.* is too old)\.\n\*\*\*\s+(Your .*)\n\*\*\*\s+(Minimum .*)\n", told.stdout)
        if old:
            yours, least = (re.sub(r"\s+", " ", each) for each in old.group(2, 3))
            raise HarnessError(f"{old[1]}: {yours}, {least}; install a newer one, or name one with CC=")
        if unfit := re.search(r"^scripts/Kconfig\.include:\d+: (.*)$", told.stdout, re.MULTILINE):
            raise HarnessError(f"make allnoconfig: {unfit[1]} Install gcc and binutils, or name a compiler with CC=")
        raise _failure("make allnoconfig", told.stdout, None)
    config.check(src, out / ".config", ours, users, progress)


def compile_kernel(spec: str, src: Path, out: Path, name: str, progress: Progress) -> Path:
    """Build ``arch/x86/boot/bzImage`` in *out* as far as it is not built yet; gives the log.

    The kernel's release ends with *name*; *progress* is told of make's own steps, each a ``Step``. Raises BootError
    with the first error if it does not build.
    """
    log, counted = out / "kst-build.log", out / "kst-steps"
    known = int(counted.read_text()) if counted.exists() else 0
    done, now = 0, "make"
    progress(f"building {spec}: {_jobs()} jobs" + ("" if shutil.which("ccache") else ", without ccache"))
    with log.open("w", buffering=1) as file:

        def watch(line: str) -> None:
            nonlocal done, now
            file.write(line)
            step = _STEP.match(line)
            if step:
                done, now = done + 1, f"{step['tool']} {step['of']}"
                tell(progress, Step(spec, done, known, now))

        modular = "CONFIG_MODULES=y\n" in (out / ".config").read_text()
        try:
            told = _make(src, out, name, ["bzImage", *(["modules"] if modular else [])], watch)
        finally:
            tell(progress, Step(spec, done, known, now, last=True))
    if told.returncode:
        raise _failure(spec, told.stdout, log)
    counted.write_text(str(max(done, known)))
    return log


def _failure(what: str, text: str, log: Path | None) -> BootError | HarnessError:
    where = f" (log: {log})" if log else ""
    if git.FULL.search(text):
        return HarnessError(f"{what}: the disk is full: free some space and try again, what is built is kept{where}")
    patterns = (
        r"^.*\berror: .*$", r"^.*undefined reference.*$", r"^.*\*\*\* (?!\[).*$", _BEFORE_MAKE, r"^.*\*\*\*.*$", r"^.+$"
    )  # fmt: skip
    found = next((match for pattern in patterns if (match := re.search(pattern, text, re.MULTILINE))), None)
    first = re.sub(r"\s+", " ", found.group()).strip()[:300] if found else "make said nothing"
    return BootError(f"{what}: the kernel does not build: {first}{where}")


def _jobs() -> int:
    return len(os.sched_getaffinity(0))


def _make(
    src: Path, out: Path, name: str, targets: list[str], watch: Callable[[str], None]
) -> subprocess.CompletedProcess[str]:
    """Run make on *src* in *out*, each line to *watch*; it dies with us. The result has all lines as ``stdout``."""
    compiler = f"ccache {_cc()}" if shutil.which("ccache") and "ccache" not in _cc() else _cc()
    command = ["make", "-C", str(src), f"O={out}", f"-j{_jobs()}", f"CC={compiler}", *targets]
    # Set and not empty: scripts/setlocalversion then adds nothing of a git repository that the cache may lie in.
    command += [f"LOCALVERSION=-{name or 'kst'}"]
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "TERM", "--", *command]
    # Relative paths: a tree elsewhere, with the same contents, hits.
    ccache = {
        "CCACHE_BASEDIR": str(out.parent),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_DIR": str(paths.cache_dir() / "ccache"),
    }
    inherited = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("CCACHE_")}
    lines = []
    with subprocess.Popen(
        command, env=ccache | inherited | _FIXED, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0,
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            for line in process.stdout:
                lines.append(line)
                watch(line)
        except BaseException:
            # make removes what it has half written, and goes on from there the next time.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def _take(wanted: BuildSpec, out: Path, provenance: dict[str, str], progress: Progress) -> KernelImage:
    built = out / "arch" / "x86" / "boot" / "bzImage"
    release = image.read_release(built)

    def lay_out(entry: Path) -> None:
        folder = entry / "lib" / "modules" / release
        folder.mkdir(parents=True)
        if "CONFIG_MODULES=y\n" in (out / ".config").read_text():
            targets = [f"INSTALL_MOD_PATH={entry}", "INSTALL_MOD_STRIP=1", "modules_install"]
            told = _make(out / "source", out, wanted.flavour, targets, lambda line: None)
            if told.returncode:
                raise _failure(f"{wanted.spec}: modules_install", told.stdout, None)
            (folder / "build").unlink(missing_ok=True)
        shutil.copyfile(built, folder / "vmlinuz")
        shutil.copyfile(out / ".config", folder / "config")

    with store.lock(progress):
        added = store.add(wanted.spec, release, provenance, lay_out)
        store.remember(_answer(provenance["build"]), added)
        found = store.find(lambda kernel: kernel.digest == added.digest, progress)
    if not found:
        raise HarnessError(f"{store.root()}: what was stored cannot be read back; check the disk")
    return found
