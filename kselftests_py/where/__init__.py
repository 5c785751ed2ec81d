"""In which functions of the kernel the instructions of an exact figure are."""

from kselftests_py.where.functions import Functions, of_kernel
from kselftests_py.where.watch import Watch, check, made_by

__all__ = ["Functions", "Watch", "check", "made_by", "of_kernel"]
