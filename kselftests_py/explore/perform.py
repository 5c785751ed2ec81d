"""How each step of a sequence is made by the probe, and so all of it. See ``steps`` for what it means, ``execute`` for
what is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kselftests_py.explore import steps as s
from kselftests_py.explore.execute import HELPER, Actor, Observed, Region, Runner, Stopped
from kselftests_py.explore.model import Place
from kselftests_py.lab import Feature, KernelRefused, Lab, Page, ProtectMode, RegisterMode, Subject, SubjectGone, ops

_PROTS = {"none": 0, "r": 1, "rw": 3}
_FIXED = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_ASYNC = int(Feature.RWP_ASYNC)


def map_(run: Runner, step: s.Map) -> None:
    region = Region(step.kind, step.pages, run.handle(0, "region"))
    run.regions.append(region)
    seen, place = run.now, run.mapped(region)

    def sink(result: Any) -> None:
        run.errno(seen)(result)
        if isinstance(result, KernelRefused):
            raise Stopped
        place(result)

    run.add(0, ops.region(step.kind, step.pages, "always" if step.thp else None, _PROTS[step.prot]), sink)


def populate(run: Runner, step: s.Populate) -> None:
    for page in range(step.first, step.first + step.count):
        run.access(HELPER, run.helpers[0], "write", run.address(step.region, page), step.value + page)


def open_(run: Runner, step: s.Open) -> None:
    run.uffds.append(True)
    run.add(0, ops.uffd_open())
    run.call(0, ops.uffd_api(len(run.uffds), sum(Feature[name] for name in step.features)))


def register(run: Runner, step: s.Register) -> None:
    mode = sum(RegisterMode[one.upper()] for one in set(step.mode))
    run.call(0, ops.register(step.uffd + 1, *run.range(step), mode))


def unregister(run: Runner, step: s.Unregister) -> None:
    run.call(0, ops.unregister(step.uffd + 1, *run.range(step)))


def protect(run: Runner, step: s.Protect) -> None:
    run.call(0, ops.protect(step.ioctl, step.uffd + 1, *run.range(step), ProtectMode.PROTECT))


def resolve(run: Runner, step: s.Resolve) -> None:
    mode = ProtectMode.DONTWAKE if step.dontwake else 0
    run.call(0, ops.protect(step.ioctl, step.uffd + 1, *run.range(step), mode))


def set_mode(run: Runner, step: s.SetMode) -> None:
    enable, disable = (_ASYNC, 0) if step.asynchronous else (0, _ASYNC)
    run.call(0, ops.set_mode(step.uffd + 1, enable, disable))


def wake(run: Runner, step: s.Wake) -> None:
    run.call(0, ops.wake(step.uffd + 1, *run.range(step)))


def close(run: Runner, step: s.Close) -> None:
    run.uffds[step.uffd] = False
    run.call(0, ops.uffd_close(step.uffd + 1))


def thread(run: Runner, step: s.Thread) -> None:
    run.actors.append(Actor(step.process, run.handle(step.process, "actor")))
    run.call(step.process, ops.actor())


def access(run: Runner, step: s.Access) -> None:
    address = run.address(step.region, step.page)
    run.access(step.actor, run.actors[step.actor], step.how, address, step.value)


def mprotect(run: Runner, step: s.Mprotect) -> None:
    run.call(step.process, ops.mprotect(*run.range(step), _PROTS[step.prot]))


def madvise(run: Runner, step: s.Madvise) -> None:
    if step.advice == "PAGEOUT":
        run.add(step.process, ops.settle(0))
    run.call(step.process, ops.madvise(*run.range(step), step.advice))


def mlock(run: Runner, step: s.Mlock) -> None:
    run.call(step.process, (ops.munlock if step.unlock else ops.mlock)(*run.range(step)))


def punch_hole(run: Runner, step: s.PunchHole) -> None:
    region = run.regions[step.region]
    start, length = run.range(step)
    run.call(0, ops.punch_hole(region.handle, start - region.addr, length))


def munmap(run: Runner, step: s.Munmap) -> None:
    run.call(step.process, ops.munmap(*run.range(step)))


def mremap(run: Runner, step: s.Mremap) -> None:
    start, length = run.range(step)
    run.call(step.process, ops.mremap(start, length, length, _FIXED, run.address(step.to, step.to_first)))


def copy_(run: Runner, step: s.Copy) -> None:
    start, length = run.range(step)
    run.add(0, ops.poke(run.scratch.addr, step.value + step.first))
    run.call(0, ops.copy(step.uffd + 1, start, length, _fill_mode(step), src=run.scratch.addr))


def continue_(run: Runner, step: s.Continue) -> None:
    run.call(0, ops.fill("continue", step.uffd + 1, *run.range(step), _fill_mode(step)))


def _fill_mode(step: s.Copy | s.Continue) -> int:
    """UFFDIO_COPY_MODE_WP and _DONTWAKE; those of UFFDIO_CONTINUE have the same values."""
    return (2 if step.protect else 0) | (1 if step.dontwake else 0)


def zeropage(run: Runner, step: s.Zeropage) -> None:
    run.call(0, ops.fill("zeropage", step.uffd + 1, *run.range(step)))


def poison(run: Runner, step: s.Poison) -> None:
    run.call(0, ops.fill("poison", step.uffd + 1, *run.range(step)))


def move(run: Runner, step: s.Move) -> None:
    start, length = run.range(step)
    run.call(0, ops.move(step.uffd + 1, run.address(step.to, step.to_first), start, length))


def migrate(run: Runner, step: s.Migrate) -> None:
    start, length = run.range(step)
    run.call(0, ops.move_pages(start, length, run.regions[step.region].page_size, step.node))


def fork(run: Runner, step: s.Fork) -> None:
    seen, child = run.now, len(run.helpers)

    def forked(result: Any) -> None:
        run.errno(seen)(result)
        if isinstance(result, KernelRefused):
            raise Stopped
        run.subjects.append(Subject(run.lab, result.subject, result.pid))
        if not step.process:
            told(result.uffd is not None)

    def told(came: bool) -> None:
        if came != (step.event is not None):
            seen.errno = "a fork event" if came else "no fork event"
            raise Stopped

    event = None if step.event is None else step.event + 1
    if not step.process:
        run.add(0, ops.fork(event), forked)
    elif event is None:
        run.add(step.process, ops.fork(), forked)
    else:  # process 0 has the descriptor
        run.add(0, ops.drain(on=True))
        run.add(step.process, ops.fork(), forked)
        run.add(0, ops.drain(on=False), lambda result: told([old for old, _ in result.uffds] == [event]))
    run.flush()
    for number, is_open in enumerate(run.uffds, 1):
        if is_open and not step.process:
            run.add(child, ops.uffd_close(number))
    run.new_process()
    if step.event is not None:
        run.uffds.append(True)


def exit_(run: Runner, step: s.Exit) -> None:
    run.flush()
    subject, run.subjects[step.process] = run.subjects[step.process], None
    if subject is not None:
        subject.end()
    run.now.errno = "0"


def swap_cycle(run: Runner, step: s.SwapCycle) -> None:
    run.call(0, ops.swap_cycle())


def kernel_work(run: Runner, step: s.KernelWork) -> None:
    run.call(0, ops.knob_set("compact_memory", "1") if step.work == "compaction" else ops.numa_hints())


@contextmanager
def early_scans(lab: Lab, sequence: s.Sequence) -> Iterator[None]:
    """If a step wants NUMA hints: a process, and its threads, can be scanned for them at once, not after a second.

    Source: init_numa_balancing() of kernel/sched/fair.c, when a thread is started.
    """
    if not any(isinstance(step, s.KernelWork) and step.work == "numa_hints" for step in sequence.steps):
        yield
        return
    wanted = {"numa_balancing": "0", "numa_scan_delay": "1"}
    with lab.new_subject() as setter:
        before = {name: str(setter.call(ops.knob(name)).value) for name in wanted}
        setter.batch(*[ops.knob_set(name, value) for name, value in wanted.items()])
        try:
            yield
        finally:
            setter.batch(*[ops.knob_set(name, value) for name, value in before.items()])


PERFORM: dict[type, Callable[[Runner, Any], None]] = {
    s.Map: map_,
    s.Populate: populate,
    s.Open: open_,
    s.Register: register,
    s.Unregister: unregister,
    s.Protect: protect,
    s.Resolve: resolve,
    s.SetMode: set_mode,
    s.Wake: wake,
    s.Close: close,
    s.Thread: thread,
    s.Access: access,
    s.Mprotect: mprotect,
    s.Madvise: madvise,
    s.Mlock: mlock,
    s.PunchHole: punch_hole,
    s.Munmap: munmap,
    s.Mremap: mremap,
    s.Copy: copy_,
    s.Continue: continue_,
    s.Zeropage: zeropage,
    s.Poison: poison,
    s.Move: move,
    s.Migrate: migrate,
    s.Fork: fork,
    s.Exit: exit_,
    s.SwapCycle: swap_cycle,
    s.KernelWork: kernel_work,
}


def run(
    lab: Lab,
    sequence: s.Sequence,
    readable: list[Place],
    *,
    categories: tuple[Page, ...],
    control: str | None,
    single: bool = False,
    one_cpu: bool = False,
) -> Observed:
    """Run *sequence* in a fresh process of the probe; *readable* are the pages whose contents are read at the end.

    *categories*: those of ACCESSED and WRITTEN that the kernel knows (``categories_of``). *control*: the probe lies in
    that way (docs/probe-protocol.md). *one_cpu*: the process and its threads run on one CPU.
    :raises MachineLost: the kernel is gone, or the machine.
    """
    with early_scans(lab, sequence):
        runner = Runner(lab, sequence, categories, control=control, single=single, one_cpu=one_cpu)
        try:
            runner.all_steps(PERFORM)
            runner.final(readable)
        except Stopped:
            pass
        except SubjectGone as gone:
            runner.observed.lost = gone
        finally:
            runner.end()
    return runner.observed
