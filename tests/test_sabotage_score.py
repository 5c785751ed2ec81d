"""The score of a campaign says killed only where a test failed, and a campaign resumes what it has."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from kselftests_py import jobs
from kselftests_py.cli.sabotage import sabotage_command
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.jobs.identity import Identity
from kselftests_py.results import Metric, Outcome, Record
from kselftests_py.sabotage import bench, campaign, score
from kselftests_py.sabotage.campaign import Attempt, Seen, Tried
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
        (1, [record("a", Outcome.PASS, "F001"), record("b", Outcome.PASS)], ""),
        (125, [], "boot"),
    ],
    ids=["fail", "crash, not the finding", "nothing", "passes against its finding", "no boot"],
)
def test_only_a_failed_test_notices(monkeypatch: pytest.MonkeyPatch, code: int, records: list[Record], by: str) -> None:
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("X", "why", code), records))
    assert campaign.noticed("image:x", campaign.OURS, 1).by == by


@pytest.mark.parametrize(
    ("code", "records"),
    [
        (3, [record("a", Outcome.PASS), record("b", Outcome.ERROR)]),
        (3, [record("a", Outcome.MISS)]),
        (3, [record("a", Outcome.SKIP)]),
        (3, [record("a", Outcome.PASS)]),
        (130, [record("a", Outcome.PASS)]),
        (1, [record("a", Outcome.PASS, "F001"), record("b", Outcome.ERROR)]),
    ],
    ids=["a broken test", "a lost machine", "nothing tested", "incomplete", "interrupted", "broken beside a finding"],
)
def test_who_could_not_look_has_seen_nothing(monkeypatch: pytest.MonkeyPatch, code: int, records: list[Record]) -> None:
    """It is no survivor."""
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("WORD", "why it is so", code), records))
    with pytest.raises(HarnessError, match="trapping eviction idle: WORD: why it is so"):
        campaign.noticed("image:x", campaign.OURS, 1)


def measured(cost: float, outcome: Outcome = Outcome.DONE) -> Record:
    metric = Metric(name="path_p50", value=cost, unit="instructions", mode="exact", labels={"path": "fork"})
    return msgspec.structs.replace(record("latency/a", outcome), metrics=[metric])


@pytest.mark.parametrize(
    ("code", "found", "by"),
    [
        (0, [measured(100)], ""),
        (0, [measured(2000)], "kst compare"),
        (1, [measured(100, Outcome.FAIL)], "latency/a"),
    ],
    ids=["same", "dearer", "a test of the suite"],
)
def test_cost_is_noticed(monkeypatch: pytest.MonkeyPatch, code: int, found: list[Record], by: str) -> None:
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("X", "why", code), found))
    assert campaign._dearer("image:x", [measured(100)]).by == by


def test_cost_that_was_not_measured_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("BROKEN", "why", 3), [record("a", Outcome.ERROR)]))
    with pytest.raises(HarnessError, match="latency: BROKEN: why"):
        campaign._dearer("image:x", [measured(100)])


def test_what_stops_the_first_run_is_tried_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """--fail-fast ends at a test that broke, too; one after it may notice."""

    def run(_kernel: str, _suites: object, options: list[str]) -> tuple[runs.Told, list[Record]]:
        broken, noticing = record("a", Outcome.ERROR), record("b", Outcome.FAIL)
        if "--fail-fast" in options:
            return runs.Told("BROKEN", "why", 3), [broken]
        return runs.Told("FAIL", "why", 1), [broken, noticing]

    monkeypatch.setattr(runs, "run", run)
    assert campaign.noticed("image:x", campaign.OURS, 1).by == "b"


PIN = bench.Pinned("source:7.3", "tree", "CONFIG_KSM=y\n")
OURS = Identity("code", "qemu 1", "gcc 1")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A campaign without kernels: what was attempted, and when the clean kernel was, is listed; it passes."""
    attempted: list[str] = []

    def run(work: list[jobs.Job], **_: object) -> Any:
        for job in work:
            attempted.append(job.key)
            seen = {which: Seen(which[0], "FAIL") for which in job.args[3]}
            yield jobs.Finished(job.key, Attempt("", seen, 1.0, OURS))

    def clean(_campaign: object, _pin: object, _defects: object, when: str, _note: object) -> list[Record]:
        attempted.append(when)
        return []

    monkeypatch.setenv("KST_CACHE", str(tmp_path))
    monkeypatch.setattr(campaign.bench, "pinned", lambda *_: PIN)
    monkeypatch.setattr(campaign, "identity", lambda: OURS)
    monkeypatch.setattr(campaign, "_clean", clean)
    monkeypatch.setattr(campaign.jobs, "run", run)
    return attempted


def go(*names: str, upstream: bool = True, **fields: Any) -> list[tuple[Tried, bool]]:
    asked = campaign.Campaign("source:7.3", [defect(name, **fields) for name in names], upstream)
    return list(campaign.run(asked, at_once=1, scheduler=None, note=lambda _: None))


def test_what_is_known_is_not_tried_again(bare: list[str]) -> None:
    assert [known for _, known in go("a", "b")] == [False, False]
    found = go("a", "b", "c")
    assert {tried.name: known for tried, known in found} == {"a": True, "b": True, "c": False}
    assert all(tried.ours.by == "o" and tried.upstream.by == "u" for tried, _ in found)
    assert bare == ["before", "a", "b", "after", "before", "c", "after"]
    go("c", "b")
    assert len(bare) == 7, "nothing is left to do"


def test_a_changed_defect_is_tried_again(bare: list[str]) -> None:
    go("a")
    go("a", kind="race")
    assert [one for one in bare if one == "a"] == ["a", "a"]


def test_verdicts_count_only_once_the_clean_kernel_passes_after_them(
    bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign that was stopped before that, or whose clean kernel failed, ends only with it, if all is known too."""

    def clean(_campaign: object, _pin: object, _defects: object, when: str, _note: object) -> list[Record]:
        bare.append(when)
        if when == "after":
            raise HarnessError("the clean kernel does not pass")
        return []

    with monkeypatch.context() as during:
        during.setattr(campaign, "_clean", clean)
        for _ in range(2):
            with pytest.raises(HarnessError, match="does not pass"):
                go("a")
    assert bare == ["before", "a", "after", "after"]
    assert [known for _, known in go("a")] == [True]
    assert bare[4:] == ["after"]
    go("a")
    assert bare[5:] == []


def keys(pin: bench.Pinned = PIN, ours: Identity = OURS) -> dict[str, str]:
    return campaign.Campaign("source:7.3", [defect("a")]).keys(pin, ours)["a"]


@pytest.mark.parametrize("which", ["ours", "upstream"])
@pytest.mark.parametrize(
    ("pin", "ours"),
    [
        (replace(PIN, tree="other"), OURS),
        (replace(PIN, symbols="CONFIG_KSM=n\n"), OURS),
        (replace(PIN, spec="source:7.3+debug"), OURS),
        (PIN, replace(OURS, qemu="qemu 2")),
        (PIN, replace(OURS, compiler="gcc 2")),
    ],
    ids=["source", "configuration", "flavour", "QEMU", "compiler"],
)
def test_a_verdict_is_of_what_it_was_made_of(which: str, pin: bench.Pinned, ours: Identity) -> None:
    assert keys(pin, ours)[which] != keys()[which]


@pytest.mark.parametrize("room", ["suites", "suites/upstream", "vm_images"])
def test_a_verdict_is_of_what_it_was_tried_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: str) -> None:
    """Of upstream's verdict, only what runs and reads its tests is part."""
    monkeypatch.setattr(campaign, "data_dir", lambda name: tmp_path / name)
    (tmp_path / room).mkdir(parents=True)
    before = keys()
    (tmp_path / room / "file").write_text("x")
    after = keys()
    assert before["ours"] != after["ours"]
    assert (before["upstream"] == after["upstream"]) == (room == "suites")


def test_a_changed_probe_leaves_upstreams_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(campaign, "probe_digest", lambda: "another")
    assert keys()["ours"] != before["ours"]
    assert keys()["upstream"] == before["upstream"]


def test_a_defect_that_could_not_be_tried_is_tried_again(bare: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: list[jobs.Job], **_: object) -> Any:
        yield from (jobs.Finished(job.key, error=HarnessError("lost")) for job in work)

    monkeypatch.setattr(campaign.jobs, "run", run)
    ((tried, known),) = go("a")
    assert (tried.error, known) == ("not tried: lost", False)
    ((_, known),) = go("a")
    assert not known


def test_what_was_seen_is_kept_beside_what_could_not_be(bare: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(work: list[jobs.Job], **_: object) -> Any:
        (job,) = work
        asked.append(job.args[3])
        yield jobs.Finished(job.key, Attempt("not tried: lost", {"ours": Seen("t", "FAIL")}, 1.0, OURS))

    with monkeypatch.context() as during:
        during.setattr(campaign.jobs, "run", run)
        for _ in range(2):
            ((tried, _),) = go("a")
            assert tried.error == "not tried: lost"
    assert asked == [["ours", "upstream"], ["upstream"]]
    ((tried, _),) = go("a")
    assert (tried.error, tried.ours.by, tried.upstream.by) == ("", "t", "u")


def test_a_verdict_of_other_tools_is_not_kept_as_ours(bare: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another QEMU may try what is not exact: it counts now, and is tried again another time."""

    def run(work: list[jobs.Job], **_: object) -> Any:
        for job in work:
            seen = {"ours": Seen("theirs", "FAIL"), "upstream": Seen()}
            yield jobs.Finished(job.key, Attempt("", seen, 1.0, replace(OURS, qemu="qemu 2")))

    with monkeypatch.context() as during:
        during.setattr(campaign.jobs, "run", run)
        ((tried, _),) = go("a")
    assert tried.ours.by == "theirs"
    ((tried, known),) = go("a")
    assert (tried.ours.by, known) == ("o", False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The suites and options of each run, all of which pass; kernels are not built."""
    said: list[tuple[str, list[str]]] = []

    class Place:
        def kernel(self, _defect: object, into: Path) -> str:
            return f"image:{into}"

    def run(_kernel: str, suites: tuple[str, ...], options: list[str]) -> tuple[runs.Told, list[Record]]:
        said.append((suites[0], list(options)))
        return runs.Told("PASS", "", 0), [record("a", Outcome.PASS)]

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(campaign.bench, "taken", lambda _: contextlib.nullcontext(Place()))
    monkeypatch.setattr(campaign.bench, "check", lambda _: None)
    return said


def bound(options: list[str]) -> int:
    return int(options[options.index("--timeout") + 1])


def test_a_broken_kernel_has_twice_the_time_of_the_clean_one(asked: list[tuple[str, list[str]]]) -> None:
    """It runs beside others: what the clean kernel passes in its time is no hang because the machine is shared."""
    campaign._clean(campaign.Campaign("source:7.3", []), PIN, [defect("a")], "before", lambda _: None)
    campaign.attempt(PIN, defect("a"), [], ["ours", "upstream"])
    clean, broken = asked[:2], asked[2:]
    assert [suite for suite, _ in clean] == [suite for suite, _ in broken] == ["trapping", "upstream"]
    for (_, before), (_, after) in zip(clean, broken, strict=True):
        assert bound(after) == 2 * bound(before)


def test_what_races_has_two_cpus_on_the_clean_kernel_too(asked: list[tuple[str, list[str]]]) -> None:
    race = defect("a", kind="race")
    campaign.attempt(PIN, race, [], ["ours", "upstream"])
    campaign._clean(campaign.Campaign("source:7.3", []), PIN, [race, defect("b")], "after", lambda _: None)
    cpus = [(suite, options[options.index("--cpus") + 1]) for suite, options in asked]
    assert cpus == [(suite, count) for count in "212" for suite in ("trapping", "upstream")]


def test_upstreams_failure_to_run_leaves_our_verdict(
    asked: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_pin: object) -> None:
        raise HarnessError("the source changed")

    monkeypatch.setattr(campaign.bench, "check", check)
    tried = campaign.attempt(PIN, defect("a"), [], ["ours", "upstream"])
    assert (tried.error, list(tried.seen)) == ("not tried: the source changed", ["ours"])
    assert asked


def test_a_full_disk_is_one_line(
    asked: list[tuple[str, list[str]]], bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(campaign.kept, "remember", full)
        with pytest.raises(HarnessError, match="No space left on device"):
            go("a")
    with monkeypatch.context() as during:
        during.setattr(runs, "run", full)
        with pytest.raises(HarnessError, match="No space left on device"):
            campaign.attempt(PIN, defect("a"), [], ["ours"])
    assert asked == []


def test_what_was_found_is_told_if_the_clean_kernel_fails_afterwards(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def clean(_campaign: object, _pin: object, _defects: object, when: str, _note: object) -> list[Record]:
        if when == "after":
            raise HarnessError("the clean kernel does not pass after the broken ones")
        return []

    monkeypatch.setattr(campaign, "_clean", clean)
    out = tmp_path / "score.json"
    done = CliRunner().invoke(sabotage_command, ["-k", "lost-wake", "--out", str(out)])
    assert done.exit_code == 3
    assert "noticed 2 of 2" in done.output
    assert "BROKEN: noticed 2 of 2; the kernel's own selftests 2 of 2; the clean kernel does not pass" in done.output
    told = msgspec.json.decode(out.read_bytes())
    assert [one["verdict"] for one in told["defects"]] == ["killed", "killed"]
    assert told["verdict"]["exit_code"] == 3


@pytest.mark.parametrize("spec", ["debian:7.3", "host", "image:/x"])
def test_only_a_source_is_broken(spec: str) -> None:
    with pytest.raises(UsageError, match="source"):
        bench.parse_kernel(spec)
