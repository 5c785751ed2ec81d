"""The score of a campaign says killed only where a test failed, and a campaign resumes what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kselftests_py import jobs
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.results import Outcome, Record
from kselftests_py.sabotage import campaign, score
from kselftests_py.sabotage.campaign import Seen, Tried
from kselftests_py.sabotage.defects import Defect, Edit

EDIT = [Edit(file="mm/a.c", function="arm", match="return 0;", replace="return 1;")]


def defect(name: str, **fields: Any) -> Defect:
    return Defect(name=name, breaks="I1", shows="something goes wrong", edit=EDIT, **fields)


KILLED = Tried("a", ours=Seen("trapping/test_x", "FAIL", "why", 9.0))


@pytest.mark.parametrize(
    ("one", "tried", "verdict"),
    [
        (defect("a"), KILLED, "killed"),
        (defect("a"), Tried("a"), "survived"),
        (defect("a"), Tried("a", upstream=Seen("upstream/x", "FAIL")), "survived"),
        (defect("a", equivalent="proof"), Tried("a"), "equivalent"),
        (defect("a", equivalent="proof"), KILLED, "killed"),
        (defect("a"), Tried("a", error="does not build"), "does not build"),
    ],
)
def test_verdict_of_a_defect(one: Defect, tried: Tried, verdict: str) -> None:
    assert score.judge(one, tried).verdict == verdict


@pytest.mark.parametrize(
    ("tried", "code", "text"),
    [
        ([KILLED], 0, "noticed 1 of 1; the kernel's own selftests 0 of 1"),
        ([KILLED, Tried("b")], 1, "noticed 1 of 2"),
        ([KILLED, Tried("b", error="error: x")], 3, "1 does not build"),
    ],
)
def test_verdict_of_a_campaign(tried: list[Tried], code: int, text: str) -> None:
    lines = [score.judge(defect(one.name), one) for one in tried]
    said, verdict = score.total(lines, upstream=True)
    assert verdict.exit_code == code
    assert text in said
    assert all(one.name in str(score.row(line)) for one, line in zip(tried, lines, strict=True))


def record(name: str, outcome: Outcome, finding: str = "") -> Record:
    return Record(id=name, suite="trapping", kernel="k", outcome=outcome, finding=finding)


@pytest.mark.parametrize(
    ("code", "records", "by"),
    [
        (1, [record("a", Outcome.PASS), record("b", Outcome.FAIL)], "b"),
        (1, [record("a", Outcome.FAIL, "F001"), record("b", Outcome.CRASH)], "b"),
        (0, [record("a", Outcome.PASS), record("b", Outcome.SKIP)], ""),
        (3, [record("a", Outcome.ERROR)], ""),
        (3, [record("a", Outcome.MISS)], ""),
        (125, [], "boot"),
    ],
    ids=["fail", "crash, not the finding", "nothing", "a broken test notices nothing", "a lost machine", "no boot"],
)
def test_only_a_failed_test_notices(monkeypatch: pytest.MonkeyPatch, code: int, records: list[Record], by: str) -> None:
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("X", "why", code), records))
    assert campaign.noticed("image:x", campaign.OURS).by == by


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A campaign without kernels: what was attempted is listed, the clean kernel passes."""
    attempted: list[str] = []

    class Place:
        base = "base"

        def __enter__(self) -> Place:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def git(self, *_: str) -> str:
            return "tree"

    def run(work: list[jobs.Job], **_: object) -> Any:
        for job in work:
            attempted.append(job.key)
            yield jobs.Finished(job.key, Tried(job.key, ours=Seen("t", "FAIL"), upstream=Seen("u", "FAIL")))

    monkeypatch.setenv("KST_CACHE", str(tmp_path))
    monkeypatch.setattr(campaign.source, "opened", lambda *_: Place())
    monkeypatch.setattr(campaign, "_clean", lambda *_: [])
    monkeypatch.setattr(campaign.jobs, "run", run)
    return attempted


def go(*names: str, upstream: bool = True, **fields: Any) -> list[tuple[Tried, bool]]:
    asked = campaign.Campaign("source:7.3", [defect(name, **fields) for name in names], upstream)
    return list(campaign.run(asked, at_once=1, scheduler=None, note=lambda _: None))


def test_what_is_known_is_not_tried_again(bare: list[str]) -> None:
    assert [known for _, known in go("a", "b")] == [False, False]
    found = go("a", "b", "c")
    assert {tried.name: known for tried, known in found} == {"a": True, "b": True, "c": False}
    assert all(tried.ours.by == "t" and tried.upstream.by == "u" for tried, _ in found)
    assert bare == ["a", "b", "c"]


def test_a_changed_defect_is_tried_again(bare: list[str]) -> None:
    go("a")
    go("a", kind="race")
    assert bare == ["a", "a"]


def test_changed_suites_leave_upstreams_verdict(bare: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = campaign.Campaign("source:7.3", [defect("a")])
    before = asked.keys(defect("a"), "tree")
    monkeypatch.setattr(campaign, "probe_digest", lambda: "another")
    after = asked.keys(defect("a"), "tree")
    assert before["ours"] != after["ours"]
    assert before["upstream"] == after["upstream"]
    assert bare == []


def test_a_defect_that_could_not_be_tried_is_tried_again(bare: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: list[jobs.Job], **_: object) -> Any:
        yield from (jobs.Finished(job.key, error=HarnessError("lost")) for job in work)

    monkeypatch.setattr(campaign.jobs, "run", run)
    ((tried, known),) = go("a")
    assert (tried.error, known) == ("not tried: lost", False)
    ((_, known),) = go("a")
    assert not known
    assert bare == []


@pytest.mark.parametrize("spec", ["debian:7.3", "host", "image:/x"])
def test_only_a_source_is_broken(spec: str) -> None:
    with pytest.raises(UsageError, match="source"):
        campaign.parse_kernel(spec)
