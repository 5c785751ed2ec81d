"""The kernel's own selftests of userfaultfd, from its own source, on the kernel under test.

Each test that a program tells of is a record of its own, ``upstream/PROGRAM::NAME``; the program as a whole is one test
here. Source: tools/testing/selftests/mm/ and run_vmtests.sh of the kernel's source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kselftests_py.lab.channel import ChannelError
from kselftests_py.machines.machine import LEFT, Machine
from kselftests_py.pytest_plugin.keys import RUN
from kselftests_py.pytest_plugin.station import Target
from kselftests_py.results import Outcome
from kselftests_py.upstream import programs, tap

# As run_vmtests.sh runs them, but for sizes: a guest has 1 GiB and, without KVM, a hundredth of the speed.
RUNS = [
    ("uffd-unit-tests", ""),
    ("pagemap_ioctl", ""),
    ("uffd-wp-mremap", ""),
    ("uffd-stress", "anon 4 4"),
    ("uffd-stress", "shmem 4 4"),
    ("uffd-stress", "hugetlb 16 4"),
]
BOUND = 600.0
"""Seconds for one program; under TCG the longest took 50, and 500 where two guests of two CPUs shared two."""
QUIET = 60.0
"""Seconds in which a program says nothing; there, too, it was never silent for more than 40."""
NOT_OK = re.compile(rb"^not ok\b.*\n", re.MULTILINE)
SKIPPED = 4
"""Exit code of a selftest that could not run (KSFT_SKIP, tools/testing/selftests/kselftest.h)."""


@pytest.fixture(scope="session")
def upstream(request: pytest.FixtureRequest, kst_target: Target) -> dict[str, Path]:
    """The programs of the kernel's source."""
    try:
        return programs.built(kst_target.kernel, request.config.stash[RUN].listener.note)
    except programs.NoSource as reason:
        pytest.skip(str(reason))


@pytest.fixture
def roomy(machine: Machine) -> Iterator[None]:
    """Huge pages enough for the programs; as many as before when the test is over."""
    _, before = machine.run("cat /proc/sys/vm/nr_hugepages", 30)
    machine.run("echo 64 > /proc/sys/vm/nr_hugepages; echo 1 > /proc/sys/vm/unprivileged_userfaultfd", 30)
    yield
    machine.run(f"echo {int(before.strip() or 0)} > /proc/sys/vm/nr_hugepages", 30)


@pytest.mark.usefixtures("lab", "roomy")
@pytest.mark.parametrize(("program", "arguments"), RUNS, ids=[f"{name} {rest}".strip() for name, rest in RUNS])
def test_program(
    request: pytest.FixtureRequest,
    machine: Machine,
    upstream: dict[str, Path],
    record_part: Callable[[str, Outcome, str], None],
    program: str,
    arguments: str,
) -> None:
    """It runs to the end of its plan, and its exit code agrees with what it told of its tests.

    No control: what the program claims of the kernel is upstream's; that it is read right is tested in tests/.
    """
    if program not in upstream:
        pytest.skip(f"the kernel's source has no {program}")
    command = f"cd /tmp && {machine.put(upstream[program])} {arguments} 2>&1".replace("  ", " ")
    name = f"upstream/{program} {arguments}".strip()
    try:
        # The rest of a program that takes a minute is of no use to a run that ends with the first failure.
        until = NOT_OK.search if request.config.stash[RUN].fail_fast else None
        code, text = machine.run(command, BOUND, quiet=QUIET, until=until)
    except ChannelError as error:
        for part in tap.parse(error.output.decode("utf-8", "replace")).parts:
            record_part(f"{name}::{part.name}", part.outcome, part.message)
        raise machine.diagnose(error) from error
    told = tap.parse(text)
    for part in told.parts:
        record_part(f"{name}::{part.name}", part.outcome, part.message)
    if code == LEFT:
        pytest.fail("it was left at its first failure (--fail-fast)")
    if code == SKIPPED and not any(part.outcome is Outcome.FAIL for part in told.parts):
        pytest.skip(told.parts[-1].message if told.parts else text.strip()[-200:])
    assert not told.problem, f"{told.problem}; it ended with {code}"
    assert (code != 0) == any(part.outcome is Outcome.FAIL for part in told.parts), f"it ended with {code}"
