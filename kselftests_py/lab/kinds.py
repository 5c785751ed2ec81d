"""Kinds of memory for the matrix of operations: each one that the kernel treats in its own way."""

from __future__ import annotations

from dataclasses import dataclass

READ, READ_WRITE, READ_EXEC, ALL_ACCESS, NONE = 1, 3, 5, 7, 0
HUGE = 512
"""4 KiB pages of a huge page."""
CODE = 0x800
"""Where in a page the return instruction is that ``exec`` calls."""
RETURNS = -0x3C3C3C3C3C3C3C3D
"""Eight return instructions of x86, as a word."""
ACCESSES = ((0, "read"), (1, "write"), (3, "rmw"), (6, "exec"))


@dataclass(frozen=True)
class Kind:
    """Memory that the kernel treats in its own way, and which of its pages are protected and accessed.

    ``filled`` says how it becomes present: ``written``, ``read`` (the zero page) or ``both`` (the second half is only
    read). ``armed`` are the protected pages, ``accessed`` those of them that are accessed, and how. Page 5 is protected
    and never accessed: it is reported by nobody, and still protected when the descriptor is closed.
    """

    name: str
    kind: str
    pages: int = 8
    needs: tuple[str, ...] = ()
    armed: frozenset[int] = frozenset({0, 1, 3, 5, 6})
    accessed: tuple[tuple[int, str], ...] = ACCESSES
    filled: str = "written"
    prot: int = ALL_ACCESS
    thp: str | None = None
    huge: bool = False

    @property
    def data(self) -> bool:
        """Its pages hold data of their own."""
        return self.filled != "read"


_WHOLE = frozenset(range(HUGE))
_IN_HUGE = ((0, "read"), (100, "write"), (300, "rmw"), (HUGE - 1, "exec"))
_ONE = frozenset({0})
_ON_ONE = ((0, "read"), (0, "write"), (0, "rmw"), (0, "exec"))
# No code in a page of zeroes, nor in a file on tmpfs, which may be mounted noexec.
_NO_CODE = ((0, "read"), (1, "write"), (3, "rmw"), (6, "read"))
KINDS = {
    one.name: one
    for one in (
        Kind("anon", "anon"),
        Kind("thp", "anon", HUGE + 8, ("thp",), _WHOLE, _IN_HUGE, thp="always", huge=True),
        Kind("mthp", "anon", 32, ("mthp",), thp="always"),
        Kind("zero", "anon", filled="read", accessed=_NO_CODE),
        Kind(
            "huge_zero", "anon", HUGE, ("thp",), _WHOLE, ((0, "read"), (HUGE - 1, "rmw")),
            filled="read", thp="always", huge=True,
        ),
        Kind("read_only", "anon", prot=READ_EXEC, accessed=((0, "read"), (1, "exec"), (3, "read"), (6, "exec"))),
        Kind("anon_shared", "anon_shared"),
        Kind("shmem", "shmem"),
        Kind("shmem_private", "shmem_private", filled="both", accessed=_NO_CODE),
        Kind("shmem_thp", "shmem", HUGE, ("shmem_thp",), _WHOLE, _IN_HUGE, thp="always", huge=True),
        Kind("tmpfs", "tmpfs", prot=READ_WRITE, accessed=_NO_CODE),
        Kind("hugetlb", "hugetlb", 2, ("hugetlb",), _ONE, _ON_ONE),
        Kind("hugetlb_private", "hugetlb_private", 2, ("hugetlb",), _ONE, _ON_ONE),
    )
}  # fmt: skip
HUGETLB = ("hugetlb", "hugetlb_private")
NEVER = {
    ("shmem_thp", "rwp"): "F024: protecting a huge page of shared memory protects nothing",
    ("read_only", "wp"): "nobody can write there, so nothing can trap",
}
"""What cannot be judged whatever the operation, and why."""
