"""Where the package's own data and the user's cache are.

In a checkout (and in an editable install) ``suites``, ``native_probes`` and
``vm_images`` lie beside the package; a wheel carries them under ``_data``.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Directory *name* (``suites``, ``native_probes``, ``sabotage``, ``vm_images``) of this installation."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def cache_dir() -> Path:
    """The cache of this user: ``$KST_CACHE``, else the platform's cache directory."""
    override = os.environ.get("KST_CACHE")
    root = Path(override) if override else platformdirs.user_cache_path("kselftests-py")
    root.mkdir(parents=True, exist_ok=True)
    return root
