"""What a check of a sequence has failed, and the file of both that ``kst explore --replay`` takes. See ``steps``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from kselftests_py.explore.steps import STEPS_MAX, Page, Process, Sequence, Text

FORMAT = 1
"""Version of the files; a reader refuses any other."""

Check = Literal["errno", "state", "value", "messages", "marked", "accessed", "written", "contents", "crash", "hang"]


class Claim(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One check that failed, at the step with the number ``step`` (``steps`` tells of the final checks).

    ``what`` is what the check is of, by ``check``:

    - ``errno``: nothing (0). Texts: ``0`` or an errno's name, ``ENOENT``.
    - ``state``: an actor's number. Texts: ``done``, ``blocked``, ``running`` (neither within 2 s), ``SIGSEGV``,
      ``SIGBUS``.
    - ``value``: an actor's number. Texts: the word, in decimal.
    - ``messages``: a userfaultfd's number. Texts: the messages, each as a text, these sorted, ``; `` between
      them; ``none`` without any.
      A page fault is its UFFD_PAGEFAULT_FLAG_ names in lower case, ``+`` between them (``missing`` without WP, MINOR
      or RWP), and region:page of its address: ``rwp+write 0:3``. Other events: ``remap``, ``remove``, ``unmap``.
    - ``marked``, ``accessed``, ``written``: a region's number, of ``page``, in ``process``. Texts: ``yes``, ``no``.
    - ``contents``: a region's number, of ``page``, in ``process``. Texts: the word, in decimal, or the signal that
      reading it raises; as ``seen`` also the other texts of ``state``.
    - ``crash``, ``hang``: nothing (0). The kernel crashed, or complained in its log, at this step or after it; the
      process or the machine gave no answer. ``seen`` is what was found.

    ``expected`` are the allowed outcomes, of which ``seen`` is none. ``why`` says from where the expectation comes.
    """

    step: Annotated[int, Meta(ge=0, le=STEPS_MAX)]
    check: Check
    what: Annotated[int, Meta(ge=-1, le=31)] = 0
    page: Page | None = None
    process: Process = 0
    expected: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    seen: Text = ""
    why: Text = ""


class Replay(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A file of ``kst explore``: a sequence, and the check that it fails on some kernel, if it is known to fail one."""

    format: Literal[1]
    sequence: Sequence
    claim: Claim | None = None


def encode(replay: Replay) -> bytes:
    """As JSON, a step a line or so: for people, too."""
    return msgspec.json.format(msgspec.json.encode(replay), indent=2) + b"\n"
