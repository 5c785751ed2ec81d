"""Building kernels: what is asked of the configuration, what becomes of a build that fails, what is built again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernels_trees import KCONFIG, change, commit_all, mail, make_tree

from kselftests_py.errors import BootError, HarnessError, KstError, UsageError
from kselftests_py.kernels import KernelImage, config, resolve, source, twin
from kselftests_py.kernels.spec import FLAVOURS
from kselftests_py.kernels.steps import Step, every_step


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    return make_tree(tmp_path / "linux")


def built(spec: str, notes: list[str] | None = None) -> KernelImage:
    kernel = resolve(spec, (notes if notes is not None else []).append)
    assert isinstance(kernel, KernelImage)
    return kernel


def times_compiled(cache: Path) -> int:
    return sum(log.read_text().count("  CC  ") for log in cache.glob("builds/*/out-*/kst-build.log"))


def test_a_tree_becomes_a_kernel(linux: Path) -> None:
    kernel = built(f"tree:{linux}")
    assert kernel.release == "7.3.4-tiny"
    assert kernel.label == f"7.3.4-tiny#{kernel.digest[:7]}"
    assert kernel.modules is None
    assert kernel.config_value("USERFAULTFD") == "y"
    assert kernel.provenance["directory"] == str(linux)
    assert kernel.provenance["flavour"] == "lean"


def test_the_same_contents_are_built_once(linux: Path, tmp_path: Path) -> None:
    first = built(f"tree:{linux}")
    commit_all(linux)
    notes: list[str] = []
    assert built(f"tree:{linux}", notes).digest == first.digest
    assert built(f"git:{linux}", notes).digest == first.digest
    (tmp_path / "elsewhere").mkdir()
    linux.rename(tmp_path / "elsewhere/linux")
    assert built(f"tree:{tmp_path}/elsewhere/linux", notes).digest == first.digest
    assert not [note for note in notes if "building" in note]


@pytest.mark.parametrize("part", ["", "+twin", "+series:one.patch"])
def test_what_is_built_is_there_at_once_while_another_is_being_built(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Somebody builds from the same repository, which may take minutes: a kernel that is there is not kept waiting."""
    monkeypatch.chdir(tmp_path)
    Path("one.patch").write_text(mail(change()))
    spec = f"git:{linux}@{commit_all(linux)}{part}"
    first = built(spec)
    (linux / "mm/memory.c").write_text("changed\n")
    notes: list[str] = []

    def progress(line: str) -> None:
        assert "waiting" not in line
        notes.append(line)

    [folder] = Path("cache/builds").glob("linux_*/")
    with source.locked(folder, progress):
        again = resolve(spec, progress)
    assert isinstance(again, KernelImage)
    assert (again.digest, again.provenance) == (first.digest, first.provenance)
    assert notes == [f"{linux} has uncommitted changes: they are no part of {spec}"]


def test_sources_that_give_the_same_bytes_are_each_built_once(linux: Path, tmp_path: Path) -> None:
    """A commit that touches documentation only: both it and its parent are known afterwards, and are one kernel."""
    parent = commit_all(linux)
    (linux / "Documentation").mkdir()
    (linux / "Documentation/mm.rst").write_text("words\n")
    child = commit_all(linux)
    first = built(f"git:{linux}@{parent}")
    entry = first.vmlinuz.stat().st_ino
    second = built(f"git:{linux}@{child}")
    assert second.digest == first.digest
    notes: list[str] = []
    for commit in (parent, child, parent):
        kernel = built(f"git:{linux}@{commit}", notes)
        assert (kernel.digest, kernel.provenance["commit"]) == (first.digest, commit)
    assert not [note for note in notes if "building" in note]
    assert kernel.vmlinuz.stat().st_ino == entry, "the entry was replaced under whoever boots it"


@pytest.mark.parametrize("name", ["KCFLAGS", "LLVM", "ARCH", "CROSS_COMPILE", "V", "KBUILD_OUTPUT", "MAKEFLAGS"])
def test_nothing_of_the_environment_reaches_the_build(linux: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    makefile = linux / "Makefile"
    makefile.write_text(
        makefile.read_text().replace("$(src)/image $< > $@", f"$(src)/image $< > $@; echo '{name}=$({name})' >> $@")
    )
    monkeypatch.setenv(name, "w" if name == "MAKEFLAGS" else "something")
    assert b"something" not in built(f"tree:{linux}").vmlinuz.read_bytes()


def test_what_changes_the_kernel_is_built(linux: Path, tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text(mail(change()))
    (tmp_path / "b.patch").write_text(mail(change(new="line FIVE")))
    (tmp_path / "c.config").write_text("# more\nCONFIG_KSM=y\n# CONFIG_ZRAM is not set\n")
    parts = ("", f"+series:{tmp_path / 'a.patch'}", f"+config:{tmp_path / 'c.config'}", "+twin")
    digests = [built(f"tree:{linux}{part}").digest for part in parts]
    (tmp_path / "a.patch").write_text((tmp_path / "b.patch").read_text())
    digests.append(built(f"tree:{linux}+series:{tmp_path / 'a.patch'}").digest)
    (linux / "mm/memory.c").write_text("changed\n")
    digests.append(built(f"tree:{linux}").digest)
    assert len(set(digests)) == len(digests)


def test_nothing_of_a_series_or_the_twin_stays(linux: Path, tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text(mail(change()))
    first = built(f"tree:{linux}")
    built(f"tree:{linux}+twin+series:{tmp_path / 'a.patch'}")
    assert (linux / "mm/Kconfig").read_text() == KCONFIG
    for entry in (tmp_path / "cache/kernels").glob("[0-9a-f]*"):
        subprocess.run(["rm", "-r", entry], check=True)
    assert built(f"tree:{linux}").digest == first.digest


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("SYNTAX\n", BootError, r"mm/memory.c:2:1: error: expected ';' \(log: .*kst-build.log\)"),
        ("FULL\n", HarnessError, "the disk is full: free some space"),
    ],
)
def test_a_build_that_fails_and_the_next_that_does_not(
    linux: Path, text: str, error: type[KstError], says: str
) -> None:
    good = (linux / "mm/memory.c").read_text()
    (linux / "mm/memory.c").write_text(text)
    with pytest.raises(error, match=says) as raised:
        built(f"tree:{linux}")
    assert "\n" not in str(raised.value)
    assert not list((Path(os.environ["KST_CACHE"]) / "kernels").glob("[0-9a-f]*"))
    (linux / "mm/memory.c").write_text(good)
    built(f"tree:{linux}")


TOO_OLD = "***\n*** C compiler is too old.\n***   Your GCC version:    4.9.0\n***   Minimum GCC version: 8.1.0\n***\n"


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        (TOO_OLD, HarnessError, r"C compiler is too old: Your GCC version: 4\.9\.0, Minimum GCC version: 8"),
        # As scripts/Kconfig.include ends for what is no compiler, or no linker, at all.
        (
            "cat: unknown C compiler\nscripts/Kconfig.include:45: Sorry, this C compiler is not supported.\n",
            HarnessError,
            "this C compiler is not supported",
        ),
        ("mm/Kconfig:3: syntax error\n", BootError, "does not build: mm/Kconfig:3: syntax error$"),
        ("mm/Kconfig:3: syntax error\n  CC      mm/x.o\n", BootError, "does not build: mm/Kconfig:3: syntax error$"),
    ],
)
def test_a_configuration_that_make_refuses(linux: Path, said: str, error: type[KstError], says: str) -> None:
    (linux / "too-old").write_text(said)
    with pytest.raises(error, match=says):
        built(f"tree:{linux}")


def test_a_compiler_of_no_name_is_the_usual_one(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(f"tree:{linux}")
    monkeypatch.setenv("CC", "")
    assert built(f"tree:{linux}").digest == first.digest


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("CC", "nosuchcc", "nosuchcc"), ("CC", "gcc -m64", "gcc -m64"), ("PATH", "/nowhere", "gcc")],
)
def test_a_compiler_missing(linux: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(HarnessError, match=f"{says} is not on this machine"):
        built(f"tree:{linux}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("CONFIG_STUBBORN=y\n", "no CONFIG_STUBBORN"),
        ("CONFIG_KSN=y\nCONFIG_STUBBORN=y\n", "no CONFIG_STUBBORN"),
        ("KSM=y\n", r"c.config:1: 'KSM=y' is neither"),
        ("CONFIG_KSM\n", "c.config:1"),
        (None, "No such file"),
    ],
)
def test_a_config_that_cannot_be(linux: Path, tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "c.config").write_text(text)
    with pytest.raises(UsageError, match=says) as raised:
        built(f"tree:{linux}+config:{tmp_path / 'c.config'}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("ours", "users", "got", "says"),
    [
        ({"KSM": "y"}, {}, {}, "CONFIG_KSM=y was asked and came out as n"),
        ({"KSM": "n"}, {}, {"KSM": "y"}, "CONFIG_KSM=n was asked and came out as y"),
        ({}, {"KSN": "y"}, {}, "no CONFIG_KSN"),
        ({"KSM": "y"}, {"KSM": "n"}, {}, ""),
        ({"NEW_IN_THE_NEXT": "y", "KSM": "y"}, {}, {"KSM": "y"}, ""),
    ],
)
def test_what_was_asked_is_compared_with_what_came_out(
    linux: Path, ours: config.Symbols, users: config.Symbols, got: config.Symbols, says: str
) -> None:
    (linux / ".config").write_text(config.text(got))
    notes: list[str] = []
    if says:
        with pytest.raises(UsageError, match=says):
            config.check(linux, linux / ".config", ours, users, notes.append)
    else:
        config.check(linux, linux / ".config", ours, users, notes.append)
    assert any("NEW_IN_THE_NEXT" in note for note in notes) == ("NEW_IN_THE_NEXT" in ours)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_fragments_are_explained_and_add_something(flavour: str) -> None:
    """Each group of symbols (what no blank line or comment parts) has a comment above it."""
    (path,) = config.flavour_files([flavour])
    symbols = config.read([path])
    before = ""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        assert not (line.startswith("CONFIG_") and not before), f"{path.name}:{number}: {line} is not explained"
        assert not re.fullmatch(r"#\s*", line), f"{path.name}:{number}: explains nothing"
        before = line
    assert path.read_text().startswith("# ")
    assert symbols
    if flavour != "lean":
        lean = config.read(config.flavour_files(["lean"]))
        assert not {name for name, value in symbols.items() if lean.get(name) == value}, "lean has it already"


@pytest.mark.parametrize(
    ("flavour", "promised"),
    [
        ("lean", "USERFAULTFD TRANSPARENT_HUGEPAGE NUMA_BALANCING SWAP MEMCG"),
        ("debug", "DEBUG_VM PAGE_TABLE_CHECK PROVE_LOCKING PROVE_RCU FAULT_INJECTION FAIL_PAGE_ALLOC"),
        ("kasan", "KASAN"),
        ("kcsan", "KCSAN"),
        ("allmm", "IDLE_PAGE_TRACKING DAMON MEM_SOFT_DIRTY KSM ZSWAP HUGETLBFS MEMORY_FAILURE"),
    ],
)
def test_a_flavour_asks_for_what_it_promises(flavour: str, promised: str) -> None:
    """Also for what comes of itself with something else: only what is asked for is compared with what came out."""
    symbols = config.read(config.flavour_files(["lean", flavour]))
    assert {name for name in promised.split() if symbols.get(name) != "y"} == set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (KCONFIG, None),
        (KCONFIG.replace("\tdef_bool y\n", '\tbool "chosen"\n\tdefault y\n', 1), None),
        (KCONFIG.replace("\tdef_bool y\n", "\tdef_bool n\n", 1), "not in the form"),
        ('config KSM\n\tbool "ksm"\n', "not in this source"),
    ],
)
def test_the_rule_of_the_twin_fits_or_fails_loudly(linux: Path, text: str, says: str | None) -> None:
    (linux / "mm/Kconfig").write_text(text)
    if says:
        with pytest.raises(UsageError, match=says):
            twin.make_selectable(linux)
        return
    twin.make_selectable(linux)
    after = (linux / "mm/Kconfig").read_text()
    assert re.match(r'config USERFAULTFD_RWP\n\tbool ".*"\n\tdefault y\n', after)
    assert after.endswith(KCONFIG.partition("default y\n")[2] or 'ksm"\n')


def test_an_interrupted_build_leaves_no_make_behind_and_goes_on(linux: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "wait"
    os.mkfifo(fifo)
    makefile = (linux / "Makefile").read_text()
    (linux / "Makefile").write_text(
        makefile.replace("\t@echo '  CC", f"\t@echo $$$$ > {tmp_path}/pid; cat {fifo}\n\t@echo '  CC")
    )
    code = f"from kselftests_py.kernels import resolve; resolve('tree:{linux}')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline, "make never came to compile"
        time.sleep(0.02)
    shell = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    while Path(f"/proc/{shell}").exists():
        assert time.monotonic() < deadline, "what make ran is still there"
        time.sleep(0.02)
    (linux / "Makefile").write_text(makefile)
    built(f"tree:{linux}")


def listened(spec: str) -> list[Step]:
    """The steps of the build of *spec*, as one who wants them all is told."""
    found: list[Step] = []

    @every_step
    def listener(note: str) -> None:
        if isinstance(note, Step):
            found.append(note)

    with contextlib.suppress(BootError):
        resolve(spec, listener)
    return found


def test_what_make_says_becomes_progress(linux: Path) -> None:
    """Each of make's own steps, not the compiler's alone; the second build knows how many there are at most."""
    makefile = (linux / "Makefile").read_text()
    more = "\t@echo '  OBJTOOL vmlinux.o'; echo '  LD [M]  x.ko'; echo 'ld: warning'; echo '  10 of 20'\n"
    (linux / "Makefile").write_text(makefile.replace("\t@mkdir", f"{more}\t@mkdir"))
    for total in (0, 3):
        steps = listened(f"tree:{linux}")
        assert [(step.done, step.now, step.last) for step in steps] == [
            (1, "CC mm/memory.o", False),
            (2, "OBJTOOL vmlinux.o", False),
            (3, "LD [M] x.ko", False),
            (3, "LD [M] x.ko", True),
        ]
        assert {(step.what, step.total) for step in steps} == {(f"tree:{linux}", total)}
        (linux / "mm/memory.c").write_text("changed\n")


def test_a_build_that_fails_ends_its_steps(linux: Path) -> None:
    (linux / "mm/memory.c").write_text("SYNTAX\n")
    assert [step.last for step in listened(f"tree:{linux}")] == [False, True]


def test_who_takes_notes_for_lines_is_told_of_few_steps(linux: Path) -> None:
    makefile = (linux / "Makefile").read_text()
    many = '\t@for each in $$(seq 2 250); do echo "  CC      $$each.o"; done\n'
    (linux / "Makefile").write_text(makefile.replace("\t@mkdir", f"{many}\t@mkdir"))
    notes: list[str] = []
    built(f"tree:{linux}", notes)
    assert [note for note in notes if isinstance(note, Step)] == [
        f"building tree:{linux}: {done} steps (CC {done}.o)" for done in (100, 200)
    ]
