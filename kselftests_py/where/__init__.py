"""In which functions of the kernel the instructions of an exact figure are."""

from kselftests_py.where.functions import Functions, of_kernel
from kselftests_py.where.watch import Watch, made_by, refusal

__all__ = ["Functions", "Watch", "made_by", "of_kernel", "refusal"]
