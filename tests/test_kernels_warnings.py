"""Which warnings a commit brings: on a tree whose "compiler" warns of each line that begins with "warn"."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels_mirror import bzimage
from kernels_trees import KCONFIG, change, commit_all, mail, make_tree, user_git

from kselftests_py.errors import BootError
from kselftests_py.kernels import build, resolve, warnings
from kselftests_py.kernels.spec import BuildSpec, parse

# Two objects, both of a header, one of an included source too; what they depend on is written down as kbuild does.
_MAKEFILE = """\
MAKEFLAGS += --no-print-directory
src := $(CURDIR)
H := $(src)/mm/internal.h
allnoconfig:
\t@cp $(KCONFIG_ALLCONFIG) $(O)/.config
bzImage: $(O)/mm/memory.o $(O)/mm/swap.o
\t@mkdir -p $(O)/arch/x86/boot
\t@cat $(src)/image $^ > $(O)/arch/x86/boot/bzImage
$(O)/mm/memory.o: $(src)/mm/memory.c $(H)
$(O)/mm/swap.o: $(src)/mm/swap.c $(src)/mm/part.c $(H)
$(O)/mm/%.o:
\t@mkdir -p $(O)/mm
\t@echo '  CC      mm/$*.o'
\t@! grep -n SYNTAX $^ || { echo "mm/$*.c:1:1: error: expected"; exit 2; }
\t@grep -n '^warn' $^ | sed 's/:\\([0-9]*\\):warn/:\\1:1: warning:/'; cat $^ > $@
\t@echo "deps := $^" > $(O)/mm/.$*.o.cmd
"""


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one commit warns of "old" in each of its files."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    folder = make_tree(tmp_path / "linux")
    (folder / "Makefile").write_text(_MAKEFILE)
    for name in ("memory.c", "swap.c", "part.c", "internal.h", "unused.c"):
        (folder / "mm" / name).write_text("code\nwarn old\n")
    (folder / "image").write_bytes(bzimage("7.3.4-tiny"))
    commit_all(folder, "base")
    return folder


def committed(linux: Path, texts: dict[str, str]) -> list[str]:
    for name, text in texts.items():
        (linux / name).write_text(text)
    commit_all(linux)
    return list(texts)


def told(linux: Path, files: list[str], *, parts: str = "", notes: list[str] | None = None) -> list[str]:
    wanted = parse(f"git:{linux}@HEAD{parts}")
    assert isinstance(wanted, BuildSpec)
    parent = user_git(linux, "rev-parse", "HEAD^")
    return warnings.new(wanted, parent, files, (notes if notes is not None else []).append)


NEW = [("mm/memory.c", "code\nwarn old\nwarn new\n"), ("mm/internal.h", "more\nwarn old\nwarn new\n")]


@pytest.mark.parametrize("state", ["nothing", "the commit", "the parent", "half", "objects gone"])
@pytest.mark.parametrize(("name", "text"), NEW)
def test_a_new_warning_is_found_whatever_was_built_before(linux: Path, name: str, text: str, state: str) -> None:
    """Also where the kernel comes from the cache and its objects are gone, and where a build was left half done."""
    files = committed(linux, {name: text})
    if state != "nothing":
        resolve(f"git:{linux}@{'HEAD^' if state == 'the parent' else 'HEAD'}")
    for path in (linux.parent / "cache/builds").glob("*/out-*/mm/.*" if state == "objects gone" else "*/out-*/mm/*.o"):
        if state == "objects gone" or (state, path.name) == ("half", "memory.o"):
            path.unlink()
            path.with_name(path.name.removeprefix(".").removesuffix(".cmd")).unlink(missing_ok=True)
    assert told(linux, files) == [f"{name}: new"]


@pytest.mark.parametrize(
    ("name", "text", "new"),
    [
        ("mm/memory.c", "code\ncode\nwarn old\n", []),
        ("mm/memory.c", "code\nwarn old\nwarn old\n", ["mm/memory.c: old"]),
        ("mm/memory.c", "code\n", []),
        ("mm/internal.h", "more\ncode\nwarn old\n", []),
        ("mm/part.c", "warn old\nwarn new\n", ["mm/part.c: new"]),
        ("mm/notes.rst", "warn new\n", []),
    ],
    ids=["moved", "twice", "gone", "header moved", "included source", "no source"],
)
def test_only_what_is_new_in_the_files_touched(linux: Path, name: str, text: str, new: list[str]) -> None:
    assert told(linux, committed(linux, {name: text})) == new


def test_a_file_that_is_not_compiled_is_told(linux: Path) -> None:
    notes: list[str] = []
    files = committed(linux, {"mm/unused.c": "warn new\n", "mm/memory.c": "code\n", "Documentation.rst": "x"})
    assert told(linux, files, notes=notes) == []
    assert [note for note in notes if note.endswith("not compiled with this configuration: mm/unused.c")], notes


def test_the_twin_and_a_series_lie_on_both(linux: Path, tmp_path: Path) -> None:
    """The configuration of a twin is refused on a source that the rule was not applied to."""
    makefile = (linux / "Makefile").read_text()
    picky = "\t@grep -q 'bool \"kst' $(src)/mm/Kconfig && grep -q five $(src)/mm/five\n"
    text = makefile.replace("allnoconfig:\n", f"allnoconfig:\n{picky}")
    (linux / "mm/five").write_text("".join(f"line {number}\n" for number in range(1, 30)))
    committed(linux, {"Makefile": text, "mm/Kconfig": KCONFIG})
    files = committed(linux, {"mm/memory.c": "warn new\n"})
    (tmp_path / "a.patch").write_text(mail(change(path="mm/five")))
    assert told(linux, files, parts=f"+twin+series:{tmp_path / 'a.patch'}") == ["mm/memory.c: new"]


def test_a_commit_or_its_parent_that_does_not_build(linux: Path) -> None:
    files = committed(linux, {"mm/memory.c": "SYNTAX\n"})
    with pytest.raises(BootError, match="expected"):
        told(linux, files)
    committed(linux, {"mm/memory.c": "warn new\n"})
    notes: list[str] = []
    assert told(linux, files, notes=notes) == []
    assert any("is not known" in note for note in notes)


def test_an_interrupted_comparison_hides_nothing_from_the_next(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = committed(linux, {"mm/memory.c": "warn new\n"})
    resolve(f"git:{linux}@HEAD")
    real = build.compile_kernel

    def interrupted(*arguments: object) -> Path:
        real(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "compile_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        told(linux, files)
    monkeypatch.setattr(build, "compile_kernel", real)
    assert told(linux, files) == ["mm/memory.c: new"]
