"""A sequence of operations as data: what the explorer runs, shrinks, keeps and replays. JSON in files.

Objects are named by small integers in the order of their creation, over the whole sequence: regions (``Map``),
userfaultfds (``Open``, and a ``Fork`` that brings one), actors (``Thread``), processes (0, then one for each ``Fork``).
Pages are named by their number within their region; an address appears nowhere. A *range* is ``count`` pages from
page ``first`` of a region. Pages are 4 KiB, those of the hugetlb kinds 2 MiB; a page's *word* is its first 8 bytes,
and the other bytes are never touched.

Regions are mapped by process 0, each 2 MiB-aligned between inaccessible guards, so that no VMA merges with another
region's. All ioctls of userfaultfds are made by process 0, also on the descriptors of its children. A child closes its
copies of all descriptors before it does anything else, so that a ``Close`` closes the last one. In the child a region
has the number and the address that it has in the parent.

**Checks.** After each step, in this order:

1. ``errno``: what the step's system call returned.
2. ``state`` of every actor that was busy before the step, and of the step's own: waited for until it is *done* (its
   access is complete, or has raised a signal) or *blocked* (it sleeps in handle_userfault(), see
   /proc/self/task/TID/wchan).
   ``value``: what a completed ``read`` or ``rmw`` has loaded.
3. ``messages`` of every open userfaultfd: all that read(2) gives, which is non-blocking. They are read after every
   step, so a check sees only what is new. (During ``Fork``, ``Mremap``, ``Munmap``, ``Madvise`` another thread reads;
   what it read counts as read after the step, except the fork event.)
4. ``marked``: bit 57 of each page's entry of /proc/self/pagemap (hugetlb: of the first of its 512).
5. ``accessed`` and ``written``: whether PAGEMAP_SCAN (no flags) over the region, with category_mask = return_mask =
   PAGE_IS_ACCESSED (only on kernels that know it) or PAGE_IS_WRITTEN, reports the page.

None of these touches a page. After the last step (``Claim.step`` is the number of steps then) come the final checks:
every userfaultfd is closed, in order of number; ``state`` of every busy actor, which must be done; ``contents``: the
word of every page that is mapped readable, loaded by a thread of its process that does nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

STEPS_MAX = 200
PAGES_MAX = 1024
HUGETLB_PAGES_MAX = 4

Index = Annotated[int, Meta(ge=0, le=31)]
Page = Annotated[int, Meta(ge=0, lt=PAGES_MAX)]
Count = Annotated[int, Meta(ge=1, le=PAGES_MAX)]
Word = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Process = Annotated[int, Meta(ge=0, le=3)]
Text = Annotated[str, Meta(max_length=400)]

Kind = Literal["anon", "shmem", "tmpfs", "hugetlb", "hugetlb_private"]
Prot = Literal["none", "r", "rw"]
Mode = Literal["missing", "minor", "wp", "rwp"]
Ioctl = Literal["rwprotect", "writeprotect"]
How = Literal["read", "write", "rmw", "hwpoison"]
Work = Literal["compaction", "numa_hints"]
Feature = Literal[
    "PAGEFAULT_FLAG_WP",
    "EVENT_FORK",
    "EVENT_REMAP",
    "WP_HUGETLBFS_SHMEM",
    "WP_UNPOPULATED",
    "WP_ASYNC",
    "MOVE",
    "MINOR_HUGETLBFS",
    "MINOR_SHMEM",
    "POISON",
    "RWP",
    "RWP_ASYNC",
]
Advice = Literal[
    "DONTNEED",
    "REMOVE",
    "FREE",
    "COLD",
    "PAGEOUT",
    "WILLNEED",
    "POPULATE_READ",
    "POPULATE_WRITE",
    "COLLAPSE",
    "HUGEPAGE",
    "NOHUGEPAGE",
    "MERGEABLE",
    "UNMERGEABLE",
    "DONTFORK",
    "DOFORK",
    "WIPEONFORK",
    "KEEPONFORK",
    "GUARD_INSTALL",
    "GUARD_REMOVE",
]


class _Step(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="op", tag=str.lower, kw_only=True
):
    """One operation; ``op`` in JSON is the class's name in lower case."""


class _Range(_Step, frozen=True, kw_only=True):
    region: Index
    first: Page
    count: Count


class Map(_Step, frozen=True, kw_only=True):
    """mmap(2) of ``pages`` pages: ``anon`` MAP_PRIVATE|MAP_ANONYMOUS; ``shmem`` MAP_SHARED of a memfd; ``tmpfs``
    MAP_SHARED of an O_TMPFILE file on a tmpfs; ``hugetlb`` MAP_SHARED of a 2 MiB hugetlb memfd; ``hugetlb_private``
    MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|MAP_HUGE_2MB. Then madvise(2) MADV_HUGEPAGE if ``thp``, else
    MADV_NOHUGEPAGE (its result ignored; not for hugetlb). Makes the next region; nothing is populated.
    """

    kind: Kind
    pages: Count
    prot: Literal["r", "rw"] = "rw"
    thp: bool = False


class Populate(_Range, frozen=True, kw_only=True):
    """A thread of process 0 that does nothing else stores ``value`` + p into the word of each page p of the range, in
    order. ``state``: done, or blocked in one of the stores (it counts as no actor, and has the number -1 in a claim).
    """

    value: Word


class Open(_Step, frozen=True, kw_only=True):
    """userfaultfd(2) with O_CLOEXEC|O_NONBLOCK, then UFFDIO_API with exactly these UFFD_FEATURE_ bits. Makes the next
    userfaultfd. ``errno`` is that of UFFDIO_API.
    """

    features: Annotated[tuple[Feature, ...], Meta(max_length=16)] = ()


class Register(_Range, frozen=True, kw_only=True):
    """UFFDIO_REGISTER of the range with UFFDIO_REGISTER_MODE_ bits ``mode``."""

    uffd: Index
    mode: Annotated[tuple[Mode, ...], Meta(max_length=4)]


class Unregister(_Range, frozen=True, kw_only=True):
    """UFFDIO_UNREGISTER of the range."""

    uffd: Index


class Protect(_Range, frozen=True, kw_only=True):
    """UFFDIO_RWPROTECT with MODE_RWP, or UFFDIO_WRITEPROTECT with MODE_WP, of the range."""

    uffd: Index
    ioctl: Ioctl


class Resolve(_Range, frozen=True, kw_only=True):
    """UFFDIO_RWPROTECT or UFFDIO_WRITEPROTECT of the range with mode 0, or with MODE_DONTWAKE."""

    uffd: Index
    ioctl: Ioctl
    dontwake: bool = False


class SetMode(_Step, frozen=True, kw_only=True):
    """UFFDIO_SET_MODE: UFFD_FEATURE_RWP_ASYNC in ``enable`` if ``asynchronous``, else in ``disable``."""

    uffd: Index
    asynchronous: bool


class Wake(_Range, frozen=True, kw_only=True):
    """UFFDIO_WAKE of the range."""

    uffd: Index


class Close(_Step, frozen=True, kw_only=True):
    """close(2) of the userfaultfd. It is not used again."""

    uffd: Index


class Thread(_Step, frozen=True, kw_only=True):
    """Makes the next actor: a thread of ``process`` that accesses memory when told to."""

    process: Process = 0


class Access(_Step, frozen=True, kw_only=True):
    """The actor accesses the word of one page: ``read`` loads it; ``write`` stores ``value``; ``rmw`` adds ``value``
    atomically and loads what was there. Or it has the frame of the page fail, which reads it first: ``hwpoison``,
    madvise(2) MADV_HWPOISON (needs CAP_SYS_ADMIN; what it returns is not looked at). The actor is idle before the step.
    No errno; ``state``: done, blocked, or the name of the signal that the access raised (SIGSEGV, SIGBUS), which is
    caught, and the actor is idle again.
    """

    actor: Index
    how: How
    region: Index
    page: Page
    value: Word = 0

    @property
    def stores(self) -> bool:
        return self.how in ("write", "rmw")


class Mprotect(_Range, frozen=True, kw_only=True):
    """mprotect(2) of the range, by ``process``: PROT_NONE, PROT_READ, or PROT_READ|PROT_WRITE."""

    process: Process = 0
    prot: Prot


class Madvise(_Range, frozen=True, kw_only=True):
    """madvise(2) of the range with MADV_ ``advice``, by ``process``. Before ``PAGEOUT`` the lists are drained on which
    each CPU keeps pages that were added lately, and where reclaim does not look (MADV_COLD of a page of one's own, on
    each CPU).
    """

    process: Process = 0
    advice: Advice


class Mlock(_Range, frozen=True, kw_only=True):
    """mlock(2) of the range by ``process``, or munlock(2) if ``unlock``."""

    process: Process = 0
    unlock: bool = False


class PunchHole(_Range, frozen=True, kw_only=True):
    """fallocate(2) FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE of the range, in the file that was mapped as ``region``
    (offset: ``first`` pages). Not for anonymous kinds.
    """


class Munmap(_Range, frozen=True, kw_only=True):
    """munmap(2) of the range, by ``process``. The other pages of the region stay."""

    process: Process = 0


class Mremap(_Range, frozen=True, kw_only=True):
    """mremap(2) of the range with MREMAP_MAYMOVE|MREMAP_FIXED onto as many pages of region ``to``, from its page
    ``to_first``, by ``process``. What was mapped there is unmapped; the range is a hole afterwards. The pages are
    known by their new place from then on.
    """

    process: Process = 0
    to: Index
    to_first: Page


class Copy(_Range, frozen=True, kw_only=True):
    """UFFDIO_COPY onto the range from a scratch buffer (populated, zero but for the words): ``value`` + p in the word
    of page p. Mode: MODE_WP if ``protect``, MODE_DONTWAKE if ``dontwake``. ``errno`` counts if the ioctl fails as a
    whole; a short count is EAGAIN.
    """

    uffd: Index
    value: Word
    protect: bool = False
    dontwake: bool = False


class Continue(_Range, frozen=True, kw_only=True):
    """UFFDIO_CONTINUE of the range. Mode: MODE_WP if ``protect``, MODE_DONTWAKE if ``dontwake``. ``errno`` as
    of ``Copy``.
    """

    uffd: Index
    protect: bool = False
    dontwake: bool = False


class Zeropage(_Range, frozen=True, kw_only=True):
    """UFFDIO_ZEROPAGE of the range, mode 0."""

    uffd: Index


class Poison(_Range, frozen=True, kw_only=True):
    """UFFDIO_POISON of the range, mode 0. ``errno`` as of ``Copy``."""

    uffd: Index


class Move(_Range, frozen=True, kw_only=True):
    """UFFDIO_MOVE, mode 0, of the range (the source) onto as many pages of region ``to``, from its page ``to_first``
    (the destination, registered with ``uffd``).
    """

    uffd: Index
    to: Index
    to_first: Page


class Migrate(_Range, frozen=True, kw_only=True):
    """move_pages(2) of the range, of process 0, to NUMA node ``node`` with MPOL_MF_MOVE_ALL, as root. Pages that are
    not there, or cannot be moved, stay. Needs two nodes.
    """

    node: Annotated[int, Meta(ge=0, le=1)]


class Fork(_Step, frozen=True, kw_only=True):
    """fork(2) by ``process``; makes the next process. Its actors are not in the child. With ``event``, the number of a
    userfaultfd with EVENT_FORK and something registered in ``process``: another thread of process 0 reads its fork
    event meanwhile, and the descriptor that it brings, which process 0 holds, is the next userfaultfd. Without, there
    is no such userfaultfd. A child outlives the process that forked it.
    """

    process: Process = 0
    event: Index | None = None


class Exit(_Step, frozen=True, kw_only=True):
    """The child ``process`` exits, with its actors, and is reaped."""

    process: Annotated[int, Meta(ge=1, le=3)]


class SwapCycle(_Step, frozen=True, kw_only=True):
    """swapoff(2) and swapon(2) of the first swap device of /proc/swaps. Needs CAP_SYS_ADMIN."""


class KernelWork(_Step, frozen=True, kw_only=True):
    """What the kernel does by itself, made to happen now; none of it changes what user space can see, but for time.

    ``compaction``: of all memory, as it does when /proc/sys/vm/compact_memory is written to. ``numa_hints``: NUMA
    balancing takes pages of process 0 away, to hear who accesses them, until it is off again (numa_balancing of
    /proc/sys/kernel; its scans are made to come at once); each page comes back at its next access. Needs two nodes.
    """

    work: Work


Step = (
    Map
    | Populate
    | Open
    | Register
    | Unregister
    | Protect
    | Resolve
    | SetMode
    | Wake
    | Close
    | Thread
    | Access
    | Mprotect
    | Madvise
    | Mlock
    | PunchHole
    | Munmap
    | Mremap
    | Copy
    | Continue
    | Zeropage
    | Poison
    | Move
    | Migrate
    | Fork
    | Exit
    | SwapCycle
    | KernelWork
)


class Sequence(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Operations in order. ``seed`` and ``made_by`` (a command, a kernel) tell where it comes from and mean nothing."""

    steps: Annotated[tuple[Step, ...], Meta(max_length=STEPS_MAX)]
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    made_by: Text = ""
