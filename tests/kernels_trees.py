"""A tiny source tree that looks like a kernel's and builds in a moment, and patches for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kernels_mirror import bzimage

KCONFIG = 'config USERFAULTFD_RWP\n\tdef_bool y\n\tdepends on 64BIT\n\nconfig KSM\n\tbool "ksm"\n'
# The two targets we ask for: the first makes a configuration of what is asked but CONFIG_STUBBORN, the other a bzImage.
_MAKEFILE = """\
MAKEFLAGS += --no-print-directory
src := $(CURDIR)
ifneq ($(O),)
allnoconfig:
\t@test ! -e $(src)/too-old || { cat $(src)/too-old; exit 1; }
\t@grep -v STUBBORN $(KCONFIG_ALLCONFIG) > $(O)/.config
bzImage: $(O)/arch/x86/boot/bzImage
$(O)/arch/x86/boot/bzImage: $(src)/mm/memory.c $(O)/.config $(src)/image
\t@echo '  CC      mm/memory.o'
\t@! grep -n SYNTAX $< /dev/null || { echo "mm/memory.c:2:1: error: expected ';'"; exit 2; }
\t@! grep -q FULL $< || { echo 'cc1: No space left on device'; exit 2; }
\t@mkdir -p $(O)/arch/x86/boot
\t@cat $(src)/image $< > $@
endif
"""


def make_tree(folder: Path) -> Path:
    """The tree, in the new directory *folder*."""
    (folder / "mm").mkdir(parents=True)
    files = {"Makefile": _MAKEFILE, "Kconfig": "", "Kbuild": "", "mm/Kconfig": KCONFIG, ".gitignore": "*.o\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "mm/memory.c").write_text("".join(f"line {number}\n" for number in range(1, 30)))
    (folder / "image").write_bytes(bzimage("7.3.4-tiny"))
    return folder


def user_git(folder: Path, *arguments: str) -> str:
    """Run git as the user whose repository it is."""
    names = {f"GIT_{role}_{what}": "user" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = os.environ | names | {"GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_all(folder: Path, message: str = "all") -> str:
    """Make *folder* a repository if it is none, and commit what is in it."""
    if not (folder / ".git").exists():
        user_git(folder, "init", "-q")
    user_git(folder, "add", "-A")
    user_git(folder, "commit", "-q", "-m", message)
    return user_git(folder, "rev-parse", "HEAD")


def mail(diff: str, subject: str = "mm: change") -> str:
    """A mail with the patch *diff*, as git format-patch makes it."""
    head = f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n"
    return f"{head}Subject: [PATCH] {subject}\n\nWhy.\n---\n\n{diff}-- \n2.39\n\n"


def change(old: str = "line 5", new: str = "line five", path: str = "mm/memory.c") -> str:
    """A diff that changes the fifth line."""
    return (
        f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -4,3 +4,3 @@\n line 4\n-{old}\n+{new}\n line 6\n"
    )


def new_file(path: str, text: str, mode: str = "100644") -> str:
    """A diff that makes the one-line file (or link, mode 120000) *path*."""
    ending = "\\ No newline at end of file\n" if mode == "120000" else ""
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1 @@\n+{text}\n{ending}"
    )
