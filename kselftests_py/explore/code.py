"""What each step of a sequence is in C: the lines of a program's main()."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from kselftests_py.explore import steps as s
from kselftests_py.explore.objects import HOW, HUGETLB, Objects

LINE = 112
"""How long a line of main() may be without its indentation."""
_PROT = {"none": "PROT_NONE", "r": "PROT_READ", "rw": "PROT_READ | PROT_WRITE"}
_FILES = {
    "shmem": 'memfd_create("page", MFD_CLOEXEC)',
    "tmpfs": 'open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)',
    "hugetlb": 'memfd_create("page", MFD_CLOEXEC | MFD_HUGETLB | 21 << MAP_HUGE_SHIFT)',
}
_MAP_FLAGS = {
    "anon": "MAP_PRIVATE | MAP_ANONYMOUS",
    "hugetlb_private": "MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT",
}
FEATURES: tuple[str, ...] = get_args(s.Feature)


@dataclass
class Code:
    """The lines of the steps, made in their order; keeps what the next ones need to know."""

    objects: Objects
    claimed: int | None = None
    """The step whose errno is claimed: a fork event that does not come is told as that of a fork."""
    threads_run: bool = False
    """Whether some thread but main() has been told to access memory."""
    _made: dict[str, int] = field(default_factory=lambda: {"region": 0, "uffd": 0, "thread": 0, "child": 0})
    _open: list[int] = field(default_factory=list)
    _touched: set[int] = field(default_factory=set)
    """Regions of which not every page can be stored to by now."""
    _alive: list[int] = field(default_factory=lambda: [0])
    _helpers: dict[int, int] = field(default_factory=dict)
    _populating: dict[int, int] = field(default_factory=dict)
    _first_access: dict[int, int] = field(default_factory=dict)
    _event_fork: bool = False

    # Names.

    def size(self, region: int) -> str:
        return "HUGE" if self.objects.regions[region].kind in HUGETLB else "PAGE"

    def length(self, region: int, pages: int) -> str:
        return self.size(region) if pages == 1 else f"{pages} * {self.size(region)}"

    def at(self, region: int, page: int) -> str:
        if region >= self._made["region"]:
            raise IndexError(region)
        return f"region[{region}]" + (f" + {self.length(region, page)}" if page else "")

    def pid(self, process: int) -> str:
        self._check("child", process - 1)
        return f"child[{process}].pid" if process else "getpid()"

    def actor(self, number: int, step: int) -> str:
        """An actor by its number in a claim of *step*."""
        return f"actor[{self._populating[step] if number == -1 else number}]"

    def begun(self, number: int, step: int) -> bool:
        """Whether the actor is a thread that has accessed memory by *step*."""
        return step in self._populating if number == -1 else self._first_access.get(number, step + 1) <= step

    def _uffd(self, number: int) -> str:
        self._check("uffd", number)
        return f"uffd[{number}]"

    def _check(self, kind: str, number: int) -> None:
        if number >= self._made[kind]:
            raise IndexError(f"{kind} {number}")

    def _new(self, kind: str) -> int:
        self._made[kind] += 1
        return self._made[kind] - 1

    # The steps.

    def step(self, number: int, step: s.Step) -> tuple[list[str], list[str]]:
        """Lines of the step: those of which the last is the system call whose result counts, and those after it."""
        match step:
            case s.Map():
                return [], self._map(step)
            case s.Populate():
                return [], self._populate(number, step)
            case s.Open():
                uffd = self._new("uffd")
                self._open.append(uffd)
                return [f"(uffd[{uffd}] = open_uffd({_bits('UFFD_FEATURE_', step.features)}))"], []
            case s.SetMode():
                field_name = "enable" if step.asynchronous else "disable"
                argument = f"struct uffdio_set_mode arg{number} = {{.{field_name} = UFFD_FEATURE_RWP_ASYNC}};"
                return [argument, f"ioctl({self._uffd(step.uffd)}, UFFDIO_SET_MODE, &arg{number})"], []
            case s.Close():
                self._uffd(step.uffd)
                if step.uffd in self._open:
                    self._open.remove(step.uffd)
                return [f"close(uffd[{step.uffd}])"], [f"uffd[{step.uffd}] = -1;"]
            case s.Thread():
                return [], [self._new_actor(self._new("thread"), step.process)]
            case s.Access():
                self._check("thread", step.actor)
                self.threads_run = True
                self._first_access.setdefault(step.actor, number)
                page = self.at(step.region, step.page)
                value = 0 if step.how == "read" else step.value
                return [], self._begin(step.actor, HOW[step.how], page, value)
            case s.Fork():
                return self._fork(number, step)
            case s.Exit():
                self.pid(step.process)
                self._alive.remove(step.process)
                gone = [n for n, process in enumerate(self.objects.threads) if process == step.process]
                idle = [f"actor[{n}].busy = 0;" for n in gone if n in self._first_access]
                return [], [f"exit_child(&child[{step.process}]);", *idle]
            case s.SwapCycle():
                return ["swap_cycle()"], []
            case s.KernelWork():
                return ["compact()" if step.work == "compaction" else "numa_hints()"], []
            case s.Migrate():
                where = f"{self.at(step.region, step.first)}, {step.count}, {self.size(step.region)}, {step.node}"
                return [f"migrate({where})"], []
            case s.Mprotect() | s.Madvise() | s.Mlock() | s.Munmap() | s.Mremap() | s.PunchHole():
                return self._memory(step)
            case _:
                return self._ioctl(number, step), []

    def _map(self, step: s.Map) -> list[str]:
        region = self._new("region")
        self._touched |= {region} if step.prot != "rw" else set()
        length = self.length(region, step.pages)
        fd, lines = "-1", []
        if step.kind in _FILES:
            fd = f"region_fd[{region}]"
            lines.append(f"{fd} = sized({_FILES[step.kind]}, {length});")
        flags = _MAP_FLAGS.get(step.kind, "MAP_SHARED")
        lines.append(f"region[{region}] = map({length}, {_PROT[step.prot]}, {flags}, {fd});")
        if step.kind not in HUGETLB:
            advise = f"madvise(region[{region}], {length}, MADV_{'' if step.thp else 'NO'}HUGEPAGE)"
            refused = '\n\tquit(4, "no huge pages: %s", strerror(errno));'
            lines.append(f"if ({advise}){refused}" if step.thp else f"{advise};")
        return lines

    def _populate(self, number: int, step: s.Populate) -> list[str]:
        page, value = self.at(step.region, step.first), step.value + step.first
        if step.region not in self._touched:
            return [f"store({page}, {step.count}, {self.size(step.region)}, {value});"]
        lines, helper = self._helper(0)
        self._populating[number] = helper
        return [*lines, f"populate(&actor[{helper}], {page}, {step.count}, {self.size(step.region)}, {value});"]

    def _helper(self, process: int) -> tuple[list[str], int]:
        """A thread of *process* that is no actor of the sequence: the lines that make it, if it is not there."""
        self.threads_run = True
        if process in self._helpers:
            return [], self._helpers[process]
        number = self._helpers[process] = self._threads()
        return [self._new_actor(number, process)], number

    def _new_actor(self, number: int, process: int) -> str:
        self.pid(process)
        return f"new_actor({number}, {process});" if self.objects.child_threads else f"new_actor({number});"

    def _begin(self, actor: int, how: str, page: str, value: int) -> list[str]:
        kind = f"'{how}', " if len(self.objects.hows) > 1 else ""
        return [f"begin(&actor[{actor}], {kind}{page}, {value});"]

    def _fork(self, number: int, step: s.Fork) -> tuple[list[str], list[str]]:
        child = self._new("child") + 1
        self._alive.append(child)
        self.pid(step.process)
        call = f"fork_child({f'{step.process}, ' if self.objects.child_forks else ''}{child})"
        if step.event is None:
            return [call], []
        self._uffd(step.event)
        self._event_fork = True
        uffd = self._new("uffd")
        self._open.append(uffd)
        return ["start_reading();", call], [
            "stop_reading();",
            f'if (forked < 0)\n\tquit({1 if number == self.claimed else 3}, "{number}: fork: no fork event came");',
            f"uffd[{uffd}] = forked;",
            "forked = -1;",
        ]

    def _memory(
        self, step: s.Mprotect | s.Madvise | s.Mlock | s.Munmap | s.Mremap | s.PunchHole
    ) -> tuple[list[str], list[str]]:
        start, length = self.at(step.region, step.first), self.length(step.region, step.count)
        self._touched |= {step.region, step.to} if isinstance(step, s.Mremap) else {step.region}
        match step:
            case s.PunchHole():
                if self.objects.regions[step.region].kind not in _FILES:
                    raise ValueError(f"region {step.region} has no file to punch a hole into")
                offset = self.length(step.region, step.first) if step.first else "0"
                mode = "FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"
                return [f"fallocate(region_fd[{step.region}], {mode}, {offset}, {length})"], []
            case s.Mprotect():
                arguments = [start, length, _PROT[step.prot]]
            case s.Madvise():
                arguments = [start, length, f"MADV_{step.advice}"]
            case s.Munmap() | s.Mlock():
                arguments = [start, length]
            case s.Mremap():
                target = self.at(step.to, step.to_first)
                arguments = [start, length, length, "MREMAP_MAYMOVE | MREMAP_FIXED", target]
        name = "munlock" if isinstance(step, s.Mlock) and step.unlock else type(step).__name__.lower()
        if step.process:
            self.pid(step.process)
            call = f"tell({step.process}, SYS_{name}, {', '.join(f'(long)({text})' for text in arguments)})"
        else:
            call = f"{name}({', '.join(arguments)})"
            call = f"(long){call}" if isinstance(step, s.Mremap) else call
        if isinstance(step, s.Mremap) and "EVENT_REMAP" in self.objects.features:
            return ["start_reading();", call], ["stop_reading();"]
        drains = isinstance(step, s.Madvise) and step.advice == "PAGEOUT"
        return [*(["drain();"] if drains else []), call], []

    def _ioctl(self, number: int, step: Any) -> list[str]:
        """The ioctls of a userfaultfd on a range."""
        start, length = self.at(step.region, step.first), self.length(step.region, step.count)
        uffd = self._uffd(step.uffd)
        if isinstance(step, s.Copy):
            values = f"{step.count}, {self.size(step.region)}, {step.value + step.first}"
            return [f"copy({uffd}, {start}, {values}, {_fill_mode(step) or '0'})"]
        if isinstance(step, s.Move):
            target = self.at(step.to, step.to_first)
            fields = f".dst = (uintptr_t){target}, .src = (uintptr_t){start}, .len = {length}"
            return [f"struct uffdio_move arg{number} = {{{fields}}};", f"ioctl({uffd}, UFFDIO_MOVE, &arg{number})"]
        span = f"{{(uintptr_t){start}, {length}}}"
        struct, name, mode = "uffdio_range", type(step).__name__.upper(), ""
        match step:
            case s.Register():
                self._touched.add(step.region)
                struct, mode = "uffdio_register", _bits("UFFDIO_REGISTER_MODE_", [m.upper() for m in step.mode])
            case s.Protect():
                struct, name, mode = "uffdio_writeprotect", step.ioctl.upper(), "UFFDIO_WRITEPROTECT_MODE_WP"
            case s.Resolve():
                struct, name = "uffdio_writeprotect", step.ioctl.upper()
                mode = "UFFDIO_WRITEPROTECT_MODE_DONTWAKE" if step.dontwake else ""
            case s.Zeropage() | s.Poison():
                struct = f"uffdio_{name.lower()}"
            case s.Continue():
                struct, mode = "uffdio_continue", _fill_mode(step)
        value = span if struct == "uffdio_range" else f"{{.range = {span}{f', .mode = {mode}' if mode else ''}}}"
        declared = f"struct {struct} arg{number} = {value};"
        if len(declared) > LINE:
            declared = declared.replace(", .mode", ",\n\t.mode")
        return [declared, f"ioctl({uffd}, UFFDIO_{name}, &arg{number})"]

    # The rest of main().

    def start(self) -> list[str]:
        """The lines before the first step, once all steps are made."""
        lines = []
        if self.objects.swaps:
            lines.append("need_swap();")
        if self._made["child"]:
            lines.append(f"child = shared({self._made['child'] + 1} * sizeof(*child));")
            if self._threads():
                lines.append("actor = shared(ACTORS * sizeof(*actor));")
        return lines

    def close_all(self) -> list[str]:
        lines = [line for uffd in sorted(self._open) for line in (f"close(uffd[{uffd}]);", f"uffd[{uffd}] = -1;")]
        self._open.clear()
        return lines

    def look(self) -> list[str]:
        """What the explorer looks at after each step."""
        return [f"look_at_memory({self.pid(process)});" for process in self._alive] if self._made["region"] else []

    def load(self, process: int, region: int, pages: list[int]) -> list[str]:
        """Loads from pages by a thread of its own, the last page first: the explorer's last checks."""
        lines, helper = self._helper(process)
        for page in sorted(pages, reverse=True):
            if page + 1 not in pages:
                last = page
            if page - 1 not in pages:
                lines.append(
                    f"load(&actor[{helper}], {self.at(region, page)}, {last - page + 1}, {self.size(region)});"
                )
        return lines

    def read(self, process: int, region: int, page: int) -> tuple[list[str], str]:
        """The lines in which a thread of its own reads a page's word, and that thread."""
        lines, helper = self._helper(process)
        return [*lines, *self._begin(helper, "r", self.at(region, page), 0), "settle();"], f"actor[{helper}]"

    def _perform(self) -> list[str]:
        """What a thread does with a page."""
        word = "*(volatile uint64_t *)a->page"
        statements = {
            "h": "a->value = madvise(a->page, 4096, MADV_HWPOISON) ? (uint64_t)errno : 0;",
            "a": "a->value = __atomic_fetch_add((uint64_t *)a->page, a->value, __ATOMIC_SEQ_CST);",
            "r": f"a->value = {word};",
            "w": f"{word} = a->value;",
        }
        lines: list[str] = []
        for number, how in enumerate(self.objects.hows):
            last = number == len(self.objects.hows) - 1
            if lines or not last:
                lines.append("else" if last else f"{'else ' if lines else ''}if (a->how == '{how}')")
                lines.append(f"\t{statements[how]}")
            else:
                lines.append(statements[how])
        return lines

    def _threads(self) -> int:
        return len(self.objects.threads) + len(self._helpers)

    def template(self) -> dict[str, Any]:
        """What the templates of program/ are told, once all steps are made."""
        return {
            "actors": self._threads(),
            "uffds": self._made["uffd"],
            "regions": max(self._made["region"], 1),
            "sizes": [
                (step.pages, self.size(n)) for n, step in enumerate(self.objects.regions[: self._made["region"]])
            ],
            "forks": self._made["child"] > 0,
            "child_actors": self.objects.child_threads,
            "child_forks": self.objects.child_forks,
            "hows": self.objects.hows,
            "perform": self._perform(),
            "needed": _bits("UFFD_FEATURE_", (name for name in FEATURES if name in self.objects.features)),
            "fork_events": self._event_fork,
        }


def _fill_mode(step: s.Copy | s.Continue) -> str:
    """Its mode bits; empty: none."""
    names = ["WP"] * step.protect + ["DONTWAKE"] * step.dontwake
    return " | ".join(f"UFFDIO_{type(step).__name__.upper()}_MODE_{name}" for name in names)


def _bits(prefix: str, names: Iterable[str]) -> str:
    return " | ".join(f"{prefix}{name}" for name in names) or "0"
