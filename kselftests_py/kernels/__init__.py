"""A kernel spec becomes a ``KernelImage`` on disk, or a ``RunningKernel`` that needs none."""

from kselftests_py.kernels.debian import NoSuchKernel
from kselftests_py.kernels.image import KernelImage
from kselftests_py.kernels.resolve import newest_without_rwp, resolve, stored
from kselftests_py.kernels.spec import FORMS, RunningKernel
from kselftests_py.kernels.store import CachedImage, list_images

__all__ = [
    "FORMS",
    "CachedImage",
    "KernelImage",
    "NoSuchKernel",
    "RunningKernel",
    "list_images",
    "newest_without_rwp",
    "resolve",
    "stored",
]
