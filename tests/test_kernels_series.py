"""Series of patches: what git am takes, what is said of those it does not, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels_trees import change, commit_all, mail, make_tree, new_file

from kselftests_py.errors import HarnessError, KstError, UsageError
from kselftests_py.kernels import series, source
from kselftests_py.kernels.spec import BuildSpec, parse


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    commit_all(make_tree(tmp_path / "linux"))


def applied(tmp_path: Path, where: Path) -> Path:
    """The source after the series at *where*."""
    wanted = parse(f"git:{tmp_path / 'linux'}")
    assert isinstance(wanted, BuildSpec)
    with source.opened(wanted, lambda _: None) as workspace:
        workspace.lay_out(workspace.base)
        series.apply(workspace, f"+series:{where}", series.collect(str(where), tmp_path, lambda _: None))
        return workspace.src


TWICE = mail(change(), "one") + mail(change("line five", "line FIVE"), "two")
COVER = mail("", "cover letter").replace("---\n\n", " mm/memory.c | 2 +-\n")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"a.patch": mail(change(new="line FIVE"))}, "a.patch"),
        ({"a.mbox": COVER + TWICE}, "a.mbox"),
        ({"0000-cover.patch": COVER, "0001.patch": mail(change()), "0002.patch": mail(change("line five", "line FIVE")),
          "notes.txt": "no patch"}, ""),
        ({"cur/1": mail(change()), "cur/2": mail(change("line five", "line FIVE")), "new/.k": "", "tmp/.k": ""}, ""),
    ],
)  # fmt: skip
def test_a_series_is_applied_in_order(tmp_path: Path, files: dict[str, str], name: str) -> None:
    for file, text in files.items():
        (tmp_path / "series" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "series" / file).write_text(text)
    assert "\nline FIVE\n" in (applied(tmp_path, tmp_path / "series" / name) / "mm/memory.c").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (mail(change()) + mail(change(), "second"), r"patch 2 \(second\) does not apply: the hunk at mm/memory.c:4"),
        (mail(change().replace("\n line 6\n", "\n")), "patch 1 .* corrupt patch .*; a mail program has changed it"),
        (mail(change(path="mm/nothing.c")), "patch 1 .* mm/nothing.c: does not exist"),
        ("", "holds no"),
        ("hello\n", "holds no mails"),
        (change(), "holds no mails"),
        (COVER, "holds no patch"),
        (mail(new_file("../evil", "x")), "leads out of the tree: .*evil.*; refused$"),
        (mail(new_file("mm/../../evil", "x")), "leads out .*evil"),
        (mail(new_file(".git/hooks/post-checkout", "x")), "leads out .*git/hooks"),
        (mail(new_file("mm/out", "/tmp", "120000") + new_file("mm/out/evil", "x")), "leads out .*mm/out"),
        (mail(new_file("mm/out", "/etc/passwd", "120000")), "outside the tree"),
        (mail(new_file("mm/out", "../../evil", "120000")), "outside the tree"),
        (mail(new_file("mm/out", "/tree/mm", "120000")), "outside the tree"),
        (
            mail(new_file("a/b/c/k", "../../..", "120000") + new_file("a/b/c/l", "k/../evil", "120000")),
            "a/b/c/l is a link",
        ),
        (mail(new_file("a/k", "../..", "120000")) + mail(new_file("a/l", "k/evil", "120000"), "second"), "outside"),
        (mail(change(), "No space left on device") + mail(change(), "No space left on device"), "does not apply"),
    ],
)
def test_what_is_wrong_with_a_series_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.patch").write_text(text)
    before = set(tmp_path.rglob("*evil*"))
    with pytest.raises(UsageError, match=says) as raised:
        applied(tmp_path, tmp_path / "a.patch")
    assert "\n" not in str(raised.value)
    assert set(tmp_path.rglob("*evil*")) == before, "something was written outside the tree"


def test_a_link_within_the_tree_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text(mail(new_file("mm/link", "../Kconfig", "120000")))
    assert (applied(tmp_path, tmp_path / "a.patch") / "mm/link").is_symlink()


def test_a_link_that_was_there_and_one_that_a_series_turns_outward(tmp_path: Path) -> None:
    """What leads out of the user's own tree is theirs; that a series makes it lead elsewhere is refused."""
    linux = tmp_path / "linux"
    (linux / "own").symlink_to("/usr/include")
    (linux / "mm/deep").mkdir()
    (linux / "mm/deep/.keep").touch()
    (linux / "mm/step").symlink_to("deep")
    (linux / "mm/through").symlink_to("step/../../evil")
    commit_all(linux)
    (tmp_path / "good.patch").write_text(mail(change()))
    assert (applied(tmp_path, tmp_path / "good.patch") / "own").is_symlink()
    moved = (
        "diff --git a/mm/step b/mm/step\nindex 1111111..2222222 120000\n--- a/mm/step\n+++ b/mm/step\n@@ -1 +1 @@\n"
        "-deep\n\\ No newline at end of file\n+.\n\\ No newline at end of file\n"
    )
    (tmp_path / "bad.patch").write_text(mail(moved))
    with pytest.raises(UsageError, match="mm/through is a link"):
        applied(tmp_path, tmp_path / "bad.patch")


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_is_not_the_patch(tmp_path: Path) -> None:
    """The cache is on a file system where the tree has room, and the series has not."""
    (tmp_path / "a.patch").write_text(mail(new_file("mm/big.c", "x" * (2 << 20))))
    (tmp_path / "cache").mkdir()
    code = (
        "from pathlib import Path\n"
        "from kselftests_py.kernels import series, source, spec\n"
        "from kselftests_py.errors import HarnessError\n"
        f"with source.opened(spec.parse('git:{tmp_path}/linux'), print) as workspace:\n"
        "    workspace.lay_out(workspace.base)\n"
        f"    try: series.apply(workspace, 'a.patch', [Path('{tmp_path}/a.patch')])\n"
        "    except HarnessError as error: print(error)"
    )
    command = 'mount -t tmpfs -o size=1500k tmpfs "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", tmp_path / "cache", sys.executable, code],
        capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(series.__file__).parents[2])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a.patch: cannot be applied: the disk of the cache is full; free some space\n"


def test_after_a_series_that_failed_the_next_one_starts_clean(tmp_path: Path) -> None:
    (tmp_path / "bad.patch").write_text(TWICE + TWICE)
    (tmp_path / "good.patch").write_text(mail(new_file("mm/new.c", "new")))
    with pytest.raises(UsageError):
        applied(tmp_path, tmp_path / "bad.patch")
    src = applied(tmp_path, tmp_path / "good.patch")
    assert "\nline 5\n" in (src / "mm/memory.c").read_text()


def fake_b4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/b4").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/b4").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))


@pytest.mark.parametrize(
    ("msgid", "script", "error", "says"),
    [
        ("<2024@example.org>", "echo That message-id is not known.; exit 1", HarnessError, "not known"),
        ("2024@example.org", "exit 0", HarnessError, "b4"),
        ("-o/etc", "exit 0", UsageError, "no Message-ID"),
    ],
)  # fmt: skip
def test_what_b4_cannot_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, msgid: str, script: str, error: type[KstError], says: str
) -> None:
    fake_b4(tmp_path, monkeypatch, script)
    with pytest.raises(error, match=says):
        series.collect(f"msgid:{msgid}", tmp_path, lambda _: None)


def test_b4_is_asked_for_a_message_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_b4(tmp_path, monkeypatch, 'echo "$@" > asked; echo mails > series.mbx')
    (found,) = series.collect("msgid:2024@example.org", tmp_path, lambda _: None)
    assert (found.name, found.read_text()) == ("series.mbx", "mails\n")
    assert (tmp_path / "asked").read_text().split()[-1] == "2024@example.org"


def test_without_b4_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match="pip install b4"):
        series.collect("msgid:2024@example.org", tmp_path, lambda _: None)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        series.collect(str(tmp_path / "nowhere"), tmp_path, lambda _: None)
