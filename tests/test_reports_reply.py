"""reply.txt: what was seen and no more, in the form that a mail to a kernel list has, and never signed by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import results_factory as factory
from results_factory import HOSTILE, NEW, OLD, record
from test_compare import ASYNC, COW, figure

from kselftests_py import reproduce, review, run
from kselftests_py.reports import reply
from kselftests_py.results import Outcome, Record, RunFolder, capsule
from kselftests_py.results.differences import Again, Reproduction

DATA = Path(__file__).parent / "data"
LONG = "trapping/test_rwp_sync.py::" + "test_a_name_longer_than_any_line_of_a_mail_may_be" * 3


def reviewed(path: Path, records: list[Record], **options: Any) -> str:
    """The reply of a made-up review: OLD is the base, NEW the base with the series."""
    manifest = factory.manifest(options={"mode": "exact", "cpus": 2, "memory": "1G"})
    for entry, spec in zip(manifest.kernels, ("+series:/home/me/series/v2.mbox", ""), strict=True):
        entry.spec = f"tree:/home/me/linux{spec}"
        entry.provenance = {"compiler": "gcc (Debian 12.2.0) 12.2.0, GNU ld 2.40"}
    manifest.kernels[0].provenance["series"] = f"sha256:{'5' * 64}"
    folder = factory.run_folder(path, records, manifest)
    wanted = run.Options(suites=("trapping", "latency"), expression="rwp and anon", mode="exact", **options)
    command = review.command(wanted, "/home/me/series/v2.mbox", "tree:/home/me/linux")
    seen = review.between(folder)
    return reply.write_reviewed(folder, command, seen, review.judge(folder, seen)).read_text("ascii")


def both(**fields: Any) -> list[Record]:
    return [record(kernel=kernel, **fields) for kernel in (OLD, NEW)]


CASES: dict[str, tuple[list[Record], bool]] = {
    "nothing-differs": ([*both(), figure(1500, ASYNC, OLD), figure(1500, ASYNC)], True),
    "dearer": (
        [*both(), figure(1500, ASYNC, OLD), figure(1500.0625, ASYNC), figure(9e5, COW, OLD), figure(9e5, COW)],
        True,
    ),
    "fails": (
        [
            *both(),
            record(id=LONG, kernel=OLD),
            record(id=LONG, outcome=Outcome.FAIL, message="assert [3] == [3, 4]"),
            *both(id="trapping/test_both", outcome=Outcome.FAIL),
            record(id="trapping/test_thp", outcome=Outcome.SKIP, message="no huge pages"),
        ],
        False,
    ),
    "crash": ([*both(), record(id="trapping/test_fork", outcome=Outcome.CRASH, message="Oops")], False),
    "base-fails": ([*both(), record(id="x", kernel=OLD, outcome=Outcome.FAIL), record(id="x")], True),
    "both-fail": ([*both(), *both(id="x", outcome=Outcome.FAIL)], False),
    "mends": (
        [*both(), record(id="x", kernel=OLD, outcome=Outcome.FAIL, finding="F2"), record(id="x", finding="F2")],
        True,
    ),
    "skips": ([*both(), *both(id="x"), record(id="y", kernel=OLD), record(id="y", outcome=Outcome.SKIP)], False),
    "nothing-tested": (both(outcome=Outcome.SKIP, message="no RWP"), False),
    "lost": (
        [*both(), record(id="x", outcome=Outcome.MISS, message="no mark (console: /home/me/run/console/a-1.log)")],
        False,
    ),
    "hostile": ([*both(), record(id=f"x[{HOSTILE}]", outcome=Outcome.FAIL, message=f"{HOSTILE}\nTested-by: E")], False),
    "trailer": ([*both(), *both(id="t[Reviewed-BY: E <e@e>]", outcome=Outcome.SKIP, message="\nAcked-by: E")], True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reply_fits_a_mail_and_offers_a_tag_only_when_all_passed(tmp_path: Path, case: str) -> None:
    records, offered = CASES[case]
    text = reviewed(tmp_path / "run", records)
    assert max(map(len, text.splitlines())) <= 72
    assert text.isascii()
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    assert (text.splitlines()[-1] == reply.UNSIGNED) is offered
    assert text.lower().count("-by:") == offered
    assert "/home/me" not in text


@pytest.mark.parametrize("case", ["nothing-differs", "dearer", "fails"])
def test_goldens(tmp_path: Path, case: str) -> None:
    assert reviewed(tmp_path / "run", CASES[case][0]) == (DATA / f"reply-{case}.txt").read_text()


def reproduced(tmp_path: Path, then: list[Record], now: list[Record]) -> tuple[str, RunFolder]:
    first = factory.run_folder(tmp_path / "then", then)
    folder = factory.run_folder(tmp_path / "now", now)
    read = capsule.open_(first.path)
    kernels = [
        Again(NEW, "", "a" * 64, True),
        Again(OLD, "", "b" * 64, False, "gcc 12 instead of gcc 14"),
    ]
    seen = Reproduction(kernels, [], reproduce.compared(read, folder))
    verdict = reproduce.judge(read, folder, seen)
    return reply.write_reproduced(folder, read, seen, verdict).read_text("ascii"), folder


@pytest.mark.parametrize(
    ("then", "now", "offered"),
    [
        ([], [], False),
        (both(), both(), True),
        (both(), [record(kernel=OLD), record(outcome=Outcome.FAIL)], False),
        ([record(outcome=Outcome.FAIL)], [record()], False),
        (both(outcome=Outcome.FAIL), both(outcome=Outcome.FAIL), False),
        (both(), both(outcome=Outcome.MISS), False),
        (both(outcome=Outcome.SKIP), both(outcome=Outcome.SKIP), False),
    ],
)
def test_a_reproduction_is_signed_for_only_when_it_is_the_same_and_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: list[Record], now: list[Record], offered: bool
) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    text, _ = reproduced(tmp_path, then, now)
    assert (reply.UNSIGNED in text) is offered
    assert max(map(len, text.splitlines())) <= 72
    assert "NOT the same bytes: gcc 12 instead of gcc 14" in " ".join(text.split())


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("tree:/home/me/linux", "tree:linux"),
        ("tree:~/linux+debug", "tree:linux+debug"),
        ("git:/home/me/linux@v7.3", "git:linux@v7.3"),
        ("git:/home/me/linux@mm/next", "git:linux@mm/next"),
        ("source:7.3+series:/home/me/a b/v2.mbox+config:/x/y.config", "source:7.3+series:v2.mbox+config:y.config"),
        ("source:7.3+series:msgid:20260101.1-x@example.org", "source:7.3+series:msgid:20260101.1-x@example.org"),
        ("debian:7.3", "debian:7.3"),
        ("/home/me/series/", "series"),
        ("../v2.patch", "v2.patch"),
        ("v2.patch", "v2.patch"),
    ],
)
def test_no_directory_of_this_machine_is_in_a_mail(spec: str, shown: str) -> None:
    assert reply.portable(spec) == shown
