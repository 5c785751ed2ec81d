"""The steps of a build, among the notes of what happens on the way to a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_EVERY = 100
_Listener = TypeVar("_Listener", bound=Callable[..., None])


class Step(str):
    """One of make's own steps, as a note. There are more than a thousand: a terminal shows the last one, a log takes
    those that are ``worth_a_line``.

    ``what`` is built, ``done`` how many steps were made, ``total`` how many there are at most (0: not known), ``now``
    the step itself as make writes it ("CC mm/memory.o"); with ``last`` the build has ended, well or not.
    """

    what: str
    done: int
    total: int
    now: str
    last: bool

    def __new__(cls, what: str, done: int, total: int, now: str, *, last: bool = False) -> Step:
        of = f" of at most {total}" if total else ""
        step = super().__new__(cls, f"building {what}: {done}{of} steps ({now})")
        step.what, step.done, step.total, step.now, step.last = what, done, total, now, last
        return step

    @property
    def worth_a_line(self) -> bool:
        return not self.last and self.done % _EVERY == 0


def every_step(listener: _Listener) -> _Listener:
    """Mark *listener* as one that wants every step, and the last one as such."""
    vars(listener)["wants_every_step"] = True
    return listener


def tell(listener: Callable[[str], None], step: Step) -> None:
    """Tell *listener* of *step*: one that is not marked takes notes for lines, and gets only what is worth one."""
    if step.worth_a_line or getattr(listener, "wants_every_step", False):
        listener(step)
