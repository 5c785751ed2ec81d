"""Verdicts kept in the cache, under all that they were made of: what is the same is not tried again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from kselftests_py import paths

_T = TypeVar("_T")


def key(made_of: Iterable[str]) -> str:
    """The name of what was made of these texts."""
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()


def recall(room: str, name: str, kind: type[_T]) -> _T | None:
    """What *room* keeps under *name*; None if nothing, or nothing that can be read as *kind*."""
    try:
        return msgspec.json.decode(_place(room, name).read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def remember(room: str, name: str, value: msgspec.Struct) -> None:
    """Keep *value*, whole or not at all."""
    temporary = _place(room, name).with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(value))
    temporary.replace(_place(room, name))


def _place(room: str, name: str) -> Path:
    folder = paths.cache_dir() / room
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"
