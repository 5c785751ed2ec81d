"""Sequences chosen by Hypothesis: how often each operation is drawn, and what a sequence begins with.

Small numbers are drawn, which ``choose`` reads as operations by walking the model.
"""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st

from kselftests_py.explore import steps as s
from kselftests_py.explore.choose import OPERATIONS, Raw, Walk, access, protect, register
from kselftests_py.explore.offer import Offer

LENGTH = 16
"""Operations drawn after the setting up of memory, descriptors and threads."""
HUGE = 512
"""Pages of a huge page."""
_NUMBER = st.integers(0, 15)
_OFTEN: dict[s.Kind, int] = {"anon": 4, "shmem": 3}
"""Kinds of memory that are tried this often for each time that one of the others is: most operations are for them."""


def chosen(offer: Offer) -> list[str]:
    """The names of the operations to draw from, each as often as its weight says."""
    can = {
        "setmode": "rwp" in offer.modes,
        "swapcycle": offer.swap,
        "move": offer.move,
        "collapse": offer.thp,
        "continue": bool(offer.minor),
        "poison": offer.poison,
        "migrate": offer.nodes,
        "hwpoison": offer.hwpoison,
        "kernelwork": bool(offer.works),
    }
    can |= dict.fromkeys(("guardinstall", "guardremove"), offer.guard)
    can |= dict.fromkeys(("mergeable", "unmergeable"), offer.ksm)
    return [name for name, (weight, _) in OPERATIONS.items() if can.get(name, True) for _ in range(weight)]


@st.composite
def sequences(draw: st.DrawFn, offer: Offer, length: int = LENGTH) -> s.Sequence:
    """Memory, a descriptor or two, threads; mostly something protected; and *length* operations drawn at random."""
    walk, allowed = Walk(offer), chosen(offer)
    often = [kind for kind in offer.kinds for _ in range(_OFTEN.get(kind, 1))]
    kinds = draw(st.lists(st.tuples(st.sampled_from(often), st.integers(1, 5)), min_size=1, max_size=2))
    if draw(_NUMBER) >= 8:  # mremap needs two of a kind
        kinds = [(kinds[0][0], pages) for _, pages in kinds]
    huge = offer.thp and draw(_NUMBER) >= 12
    for kind, pages in kinds:
        if huge and kind == "anon":
            walk.put(s.Map(kind=kind, pages=HUGE, thp=True))
        else:
            prot: Literal["r", "rw"] = "r" if draw(_NUMBER) == 15 else "rw"
            walk.put(s.Map(kind=kind, pages=min(pages, 2) if kind.startswith("hugetlb") else pages, prot=prot))
    wanted = draw(st.lists(st.sets(st.sampled_from(offer.features)) if offer.features else st.just(set()),
                           min_size=1, max_size=2))  # fmt: skip
    event = False
    for more in wanted:
        taken = more - {"EVENT_FORK"} if event else more  # who reads the events of two is more than is asked here
        event = event or "EVENT_FORK" in taken
        walk.put(s.Open(features=(*offer.always(), *sorted(taken))))
    for _ in range(2):
        walk.put(s.Thread())
    for region, mapped in enumerate(walk.model.regions):
        whole = {"region": region, "first": 0, "count": mapped.pages}
        if draw(_NUMBER):
            share = draw(_NUMBER)
            populated = whole if share >= 8 else whole | {"count": 1 + share % min(mapped.pages, 8)}
            walk.put(s.Populate(value=10 * (region + 1), **populated))
        if draw(_NUMBER):
            registered = register(walk, Raw(region, 0, 8 + draw(_NUMBER) // 2, draw(_NUMBER)))
            walk.put(registered)
            if "minor" in registered.mode and draw(_NUMBER) >= 4:  # what is there is in the file, not mapped
                walk.put(s.Madvise(advice="DONTNEED", **whole))
                if draw(_NUMBER) >= 8:
                    _put(walk, "continue", Raw(region, draw(_NUMBER), 15, 0))
            raises = {12: "hwpoison", 13: "guardinstall", 14: "poison", 15: "poison"}.get(draw(_NUMBER))
            if raises in allowed:  # as a guest has it whose memory was migrated with such a page
                _put(walk, raises, Raw(region, draw(_NUMBER), 10 + draw(_NUMBER) // 3, 0))
            if draw(_NUMBER) > 1:
                first = draw(_NUMBER)
                walk.put(protect(walk, Raw(region, max(0, first - 8), 15 - draw(_NUMBER) * 2 // 3, 0)))
    operation = st.tuples(st.sampled_from(allowed), _NUMBER, _NUMBER, _NUMBER, _NUMBER)
    for name, *numbers in draw(st.lists(operation, min_size=length, max_size=length)):
        _put(walk, name, Raw(*numbers))
    return s.Sequence(steps=tuple(walk.steps))


def _put(walk: Walk, name: str, raw: Raw) -> None:
    """The operation; where it cannot be, an access, which is what shows most. After a fork a thread of the child."""
    step = OPERATIONS[name][1](walk, raw)
    if step is None or not walk.put(step):
        if name != "nothing" and (other := access(walk, raw)) is not None:
            walk.put(other)
    elif isinstance(step, s.Fork):
        walk.put(s.Thread(process=len(walk.model.alive) - 1))
