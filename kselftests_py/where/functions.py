"""Where a kernel's functions are, as /proc/kallsyms of a guest that runs it tells."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import filelock
import msgspec

from kselftests_py import kept
from kselftests_py.errors import BootError, HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.kernels.image import file_digest
from kselftests_py.lab.build import agent
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.vng import VngGuest
from kselftests_py.paths import cache_dir

# Where _text is with nokaslr: __START_KERNEL (arch/x86/include/asm/page_64_types.h).
_MAP = 0xFFFF_FFFF_8000_0000
_START = "0x1000000"  # CONFIG_PHYSICAL_START, where nobody chose it
_SPAN = 1 << 30  # more is no kernel's
_MAX = 32 << 20  # bytes of text
_PIECE = 48_000  # of it in one answer of the guest's shell, which has 64 KiB
_LINE = re.compile(r"(ffffffff[0-9a-f]{8}) [tTwW] ([A-Za-z0-9_.$]{1,200})")
_ENTRY = ("__entry_text_start", "__entry_text_end"), ("__noinstr_text_start", "__noinstr_text_end")
_CLONE = re.compile(r"\.(isra|constprop|part|cold|llvm|lto_priv)\b.*")
_ROOM = "functions"


class Functions(msgspec.Struct, frozen=True):
    """*addresses* ascend, where each of *names* begins; the last is the end of them all. *entry* are the two ranges
    that a system call or an exception runs through before and after the kernel may be traced: ``.entry.text``, and
    ``.noinstr.text`` with memcpy and memset."""

    addresses: list[int]
    names: list[str]
    entry: list[tuple[int, int]]

    def is_entry(self, number: int) -> bool:
        """Whether function *number* lies in ``entry``."""
        return any(begin <= self.addresses[number] < end for begin, end in self.entry)


def parse(text: str, start: str = _START) -> Functions:
    """The functions in *text*, lines of /proc/kallsyms, at the addresses that they have with nokaslr, *start* being the
    kernel's CONFIG_PHYSICAL_START.

    One that has several names goes by the shortest; what the compiler cut off a function or made a copy of
    (``.cold``, ``.isra.0``) goes by the name of the function, so that it is found in another kernel.

    :raises ValueError: there are none.
    """
    found: dict[int, set[str]] = {}
    for address, name in _LINE.findall(text):
        found.setdefault(int(address, 16), set()).add(name)
    at = {name: address for address, names in found.items() for name in names}
    base, end = at.get("_text", at.get("_stext")), at.get("_etext")
    if base is None or end is None or not 0 < end - base < _SPAN:
        raise ValueError("no _text and _etext in /proc/kallsyms")
    by = _MAP + int(start, 16) - base
    moved = {address + by: names for address, names in found.items() if base <= address < end}
    order = sorted(moved)
    entry = [(at[begin] + by, at[stop] + by) for begin, stop in _ENTRY if {begin, stop} <= at.keys()]
    return Functions([*order, end + by], [_name(moved[address]) for address in order], entry)


def _name(names: set[str]) -> str:
    return min((_CLONE.sub("", name) for name in names), key=lambda name: (len(name), name))


def of_kernel(image: KernelImage, console: Callable[[], Path], note: Callable[[str], None]) -> Functions:
    """The functions of *image*, asked of a guest once for each kernel.

    :raises KstError: it does not boot, or does not tell.
    """
    (folder := cache_dir() / _ROOM).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f"{image.digest}.lock"):
        name = kept.key([image.digest, file_digest(Path(__file__))])
        known = kept.recall(_ROOM, name, Functions)
        if known is None:
            note(f"{image.label}: asking where its functions are")
            known = _asked(image, console, note)
            kept.remember(_ROOM, name, known)
    return known


def _asked(image: KernelImage, console: Callable[[], Path], note: Callable[[str], None]) -> Functions:
    guest = VngGuest(image, agent(), console, GuestOptions(), note)
    try:
        guest.start()
        guest.run("grep ' [tTwW] [^ ]*$' /proc/kallsyms | gzip > /tmp/functions", 60)
        packed = b""
        while len(packed) < _MAX:
            piece = f"dd if=/tmp/functions bs={_PIECE} skip={len(packed) // _PIECE} count=1 2>/dev/null | base64"
            got = base64.b64decode(guest.run(piece, 60)[1])
            packed += got
            if len(got) < _PIECE:
                break
        text = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(packed, _MAX).decode("ascii", "replace")
        return parse(text, image.config_value("CONFIG_PHYSICAL_START") or _START)
    except BootError as error:
        raise HarnessError(f"the guest that is to tell where functions are is not up: {error}") from None
    except (ValueError, zlib.error, binascii.Error) as error:
        raise HarnessError(
            f"{image.spec}: its guest does not tell where functions are ({error}); build it with CONFIG_KALLSYMS"
        ) from None
    finally:
        guest.stop()
