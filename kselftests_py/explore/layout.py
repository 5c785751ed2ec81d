"""The model's rules of what moves pages, drops them, or copies them: see ``rules``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kselftests_py.explore import steps as s
from kselftests_py.explore.model import HOLE, Actor, Model, Page, State, Unmodelled

CHILDREN = 2
"""Forks that are tried."""


def refused(model: Model, *errnos: str) -> None:
    """I7: the call fails, and changes nothing."""
    model.expected.errno = frozenset(errnos)


def drop(model: Model, pages: Iterable[Page]) -> None:
    """D1: a page that user space drops loses its marker. Of write protection no document says it, nor of poison.

    Guard pages "are not removed by MADV_DONTNEED, MADV_FREE" (madvise(2)), but by their own advice alone.
    """
    for page in pages:
        lost = [one for one in page.states if one.entry != "guard"]
        markers = {one.marked for one in lost} | {False} if page.mode == "wp" else {False}
        stay = {one for one in page.states if one.raises}
        page.states = frozenset(stay | {State("absent", marked) for marked in markers if lost})
        page.lazy = False


def munmap(model: Model, step: s.Munmap) -> None:
    pages = model.mapped(step.process, step.region, step.first, step.count)
    _nobody_waits(model, step.process, step)
    for page in pages:
        page.__dict__.update(Page(page.kind, "").__dict__)


def _nobody_waits(model: Model, process: int, step: s.Munmap | s.Mremap) -> None:
    """What becomes of a thread that is blocked on a page which is unmapped or moved, no document says."""
    other = step.to if isinstance(step, s.Mremap) else None
    for actor in model.actors:
        there = actor.process == process and actor.access and actor.access.region in (step.region, other)
        if there and "blocked" in actor.states:
            raise Unmodelled("unmapping what somebody waits for")


def mremap(model: Model, step: s.Mremap) -> None:
    pages = model.mapped(step.process, step.region, step.first, step.count)
    model.span(step.process, step.to, step.to_first, step.count)
    if step.region == step.to or model.regions[step.region].kind != model.regions[step.to].kind:
        raise Unmodelled("a move within a region, or onto another kind")
    if model.regions[step.region].kind.startswith("hugetlb") or len({_vma(page) for page in pages}) != 1:
        raise Unmodelled("moving hugetlb memory, or several mappings")
    if model.moved & {step.region, step.to}:
        raise Unmodelled("moving parts of what was moved")
    _nobody_waits(model, step.process, step)
    model.moved |= {step.region, step.to}
    for offset, page in enumerate(pages):
        keeps = page.owner is not None and "EVENT_REMAP" in model.uffds[page.owner].features
        if page.owner is not None and keeps:
            model.expected.events[page.owner] = "remap"
        place = (step.process, step.to, step.to_first + offset)
        model.pages[place] = page if keeps else page.unregistered()  # V1, V2, V3
        model.pages[place].states |= _unpoisoned(page)  # guard pages "are moved with it"
        model.pages[step.process, step.region, step.first + offset] = Page(page.kind, "")


def _unpoisoned(page: Page) -> set[State]:
    """UFFDIO_POISON(2const) speaks of accesses "to these addresses" of "this particular address space"."""
    return {HOLE for one in page.states if one.entry == "poison"}


def _vma(page: Page) -> tuple[Any, ...]:
    """Pages beside each other that differ in this are in different VMAs."""
    return page.prot, page.owner, page.mode, page.missing, page.minor, page.advised


def told_of_fork(model: Model, process: int) -> set[int]:
    """The userfaultfds that a fork by *process* now sends an event to."""
    there = [page for place, page in model.pages.items() if place[0] == process]
    copied = {page.owner for page in there if "left out" not in page.advised}
    return {uffd for uffd in copied if uffd is not None and "EVENT_FORK" in model.uffds[uffd].features}


def fork(model: Model, step: s.Fork) -> None:
    if len(model.alive) > CHILDREN or any(page.kind == "hugetlb_private" for page in model.pages.values()):
        raise Unmodelled("one fork more, or one that may run out of huge pages")
    if step.process >= len(model.alive) or not model.alive[step.process]:
        raise Unmodelled("a process that is not there")
    if told_of_fork(model, step.process) != ({step.event} if step.event is not None else set()):
        raise Unmodelled("a fork whose event nobody reads, or that sends none")
    process = len(model.alive)
    model.alive.append(True)
    if step.event is not None:
        parent = model.uffds[step.event]
        model.uffds.append(replace(parent, process=process))  # M10
    for (_, region, number), page in [one for one in model.pages.items() if one[0][0] == step.process]:
        child = copy.copy(page)
        if page.owner is not None and page.owner == step.event:
            child.owner = len(model.uffds) - 1  # K2, K3: markers are copied
        else:
            child = page.unregistered()  # K1
        if "left out" in page.advised:  # MADV_DONTFORK: "do not make the pages in this range available to the child"
            child = Page(page.kind, "")
        elif "wiped" in page.advised:  # MADV_WIPEONFORK: "present the child process with zero-filled memory"
            child.states, child.words, child.lazy = frozenset({HOLE}), frozenset({0}), False
        elif page.file:  # its entries may be left to later faults, unless they carry a marker
            child.states |= {HOLE for one in child.states if not one.marked and one.entry != "guard"}
        child.states |= _unpoisoned(child)  # guard pages "remain on fork"
        child.advised -= {"locked"}  # "not inherited by a child" (mlock(2))
        model.pages[process, region, number] = child


def exit_(model: Model, step: s.Exit) -> None:
    if step.process >= len(model.alive) or not model.alive[step.process]:
        raise Unmodelled("a process that is not there")
    model.alive[step.process] = False
    model.pages = {place: page for place, page in model.pages.items() if place[0] != step.process}
    for actor in model.actors:
        if actor.process == step.process:
            actor.states, actor.access = frozenset({"gone"}), None


def swap_cycle(model: Model, step: s.SwapCycle) -> None:
    for page in model.pages.values():
        page.states |= {State("present", one.marked) for one in page.states if one.entry == "swapped"}


def move(model: Model, step: s.Move) -> None:
    """Of one page that no other process can have; UFFDIO_MOVE(2const)."""
    uffd = model.uffd(step.uffd)
    (source,) = model.mapped(uffd.process, step.region, step.first, 1) if step.count == 1 else (None,)
    (target,) = model.mapped(uffd.process, step.to, step.to_first, 1)
    if source is None or len(model.alive) > 1 or source is target or target.owner != step.uffd:
        raise Unmodelled("moving several pages, or what a child may share, or onto what is not registered here")
    plain = [page.kind == "anon" and page.prot == "rw" and not page.huge for page in (source, target)]
    if not all(plain) or any(page.reclaimed or "locked" in page.advised for page in (source, target)):
        raise Unmodelled("moving what is not plain anonymous memory, or may be on swap, or is locked")
    if any(one.entry == "poison" for one in target.states):
        raise Unmodelled("moving onto poison, which may be replaced or not")
    if target.states != {HOLE} or any(one.entry == "absent" and one.marked for one in source.states):
        if all(one.entry != "absent" for one in target.states) and source.states == {State("present", False)}:
            return refused(model, "EEXIST")
        raise Unmodelled("moving onto what may be there")
    if source.states == {HOLE}:
        return refused(model, "ENOENT")
    if any(one.entry != "present" for one in source.states) or list(_waiters(model, uffd.process, step)):
        raise Unmodelled("moving what may not be there, or what somebody waits for")
    armed = {True} if target.mode == "rwp" else {False, True} if target.mode == "wp" else {False}  # X5
    target.states = frozenset(State("present", marked) for marked in armed)
    target.words, source.words = source.words, frozenset({0})
    drop(model, [source])
    model.retry(list(model.waiting(step.uffd, step.to, step.to_first, 1)))
    return None


def _waiters(model: Model, process: int, step: s.Move) -> list[Actor]:
    return [
        actor
        for actor in model.actors
        if actor.process == process
        and "blocked" in actor.states
        and actor.access
        and (actor.access.region, actor.access.page) == (step.region, step.first)
    ]
