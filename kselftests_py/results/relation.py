"""What two compared kernels are to each other, by where they come from: what a difference may be due to."""

from __future__ import annotations

from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.regression import pair

_RWP = "USERFAULTFD_RWP"
_CONFIGURATION = "configuration"
# What a kernel of ours was built from (kernels/build.py): the names in its provenance.
_MADE_OF = {"source": ("tree", "series"), "compiler": ("compiler",)}


def relation(manifest: Manifest) -> str:
    """In one sentence; empty if the run is not one of one kernel and one baseline."""
    both = pair(manifest)
    if both is None:
        return ""
    base, head = both
    if base.digest == head.digest and (base.digest or base.spec == head.spec):
        return "one kernel beside itself: whatever differs is noise"
    if not (base.digest and head.digest):
        return "a running kernel is compared: how it was made is not known, and so may differ in anything"
    if all("tree" in one.provenance for one in both):
        return _builds(base, head, manifest.config_differences)
    if all("version" in one.provenance for one in both):
        return "release against release: configuration and compiler are each release's own"
    return "two kernels of different origin: source, configuration and compiler may all differ"


def _builds(base: KernelEntry, head: KernelEntry, symbols: list[str]) -> str:
    differ = [
        name
        for name, parts in _MADE_OF.items()
        if any(base.provenance.get(part) != head.provenance.get(part) for part in parts)
    ]
    if not differ and symbols == [_RWP]:
        twin, whole = (base, head) if "twin" in base.provenance.get("flavour", "").split("-") else (head, base)
        return (
            f"{twin.label} is the wp-only twin of {whole.label}: one source, compiler and configuration, but for {_RWP}"
        )
    differ += [_CONFIGURATION] if symbols else []
    if not differ:
        return "two builds of one source with one compiler and one configuration"
    alike = [name for name in (*_MADE_OF, _CONFIGURATION) if name not in differ]
    return f"two builds: other {' and '.join(differ)}" + (f", the same {' and '.join(alike)}" if alike else "")
