"""``kst kernels prune``: what the cache holds of kernels and can make again. The verdicts of a campaign (``sabotage/
verdicts``), which take an hour and more, and the exact figures of ``kst history`` stay; they are small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kselftests_py import paths
from kselftests_py.kernels import CachedImage, locks, recipe, source, store

_DERIVED = ("upstream", "runs", "ccache")


@dataclass(frozen=True)
class Pruned:
    """What was removed: the kernels, and the bytes of all else; and what was not: kernels and directories in use."""

    kernels: list[CachedImage]
    others: int
    kernels_in_use: list[CachedImage]
    in_use: list[Path]


@store.disk_errors()
def prune() -> Pruned:
    """Remove every kernel, what they were built from and in, and what came of them; what is in use stays.

    What no lock tells the use of (the selftests of a kernel, ccache, the recipes) goes when nothing is in use.
    """
    cache = paths.cache_dir().absolute()
    freed, in_use = locks.remove_unheld(source.builds())
    more, benches = locks.remove_unheld(cache / "sabotage", but="verdicts")
    freed, in_use = freed + more, in_use + benches
    kernels, kept = store.prune()
    if not kept and not in_use:
        freed += sum(locks.removed(folder) for folder in [recipe.root(), *(cache / name for name in _DERIVED)])
    return Pruned(kernels, freed, kept, in_use)
