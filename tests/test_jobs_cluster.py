"""Jobs on a Dask scheduler and workers of this machine: who is refused, who dies, and what goes away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jobs_calls
import pytest
from jobs_cluster import BOUND, LocalCluster

from kselftests_py import jobs
from kselftests_py.errors import HarnessError
from kselftests_py.jobs import cluster as room
from kselftests_py.jobs import identity as ids


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path) as started:
        yield started


def other(folder: Path, tool: str) -> Path:
    """A directory with *tool* in another version."""
    folder.mkdir()
    fake = folder / tool
    fake.write_text(f"#!/bin/sh\necho {tool} version 1.2.3\n")
    fake.chmod(0o755)
    return folder


def doubles(count: int, exact: bool = False) -> list[jobs.Job]:
    return [jobs.Job(f"j{n}", jobs_calls.double, (n,), exact=exact) for n in range(count)]


def test_a_worker_that_announces_no_guests_gets_no_job(cluster: LocalCluster) -> None:
    cluster.worker("mute", vms=0)
    cluster.await_workers(1)
    said: list[str] = []
    with pytest.raises(HarnessError, match=r"no worker of .* may do j0 .* announces no guests") as error:
        list(jobs.run(doubles(1), scheduler=cluster.address))
    assert "\n" not in str(error.value)
    cluster.worker("one")
    cluster.await_workers(2)
    found = list(jobs.run(doubles(6), scheduler=cluster.address, note=said.append))
    assert sorted((one.key, one.value, one.worker) for one in found) == [(f"j{n}", 2 * n, "one") for n in range(6)]
    assert [one for one in said if "mute" in one and "VM=1" in one] == said


@pytest.mark.parametrize(("tool", "what"), [("qemu-system-x86_64", "qemu"), ("gcc", "compiler")])
def test_another_tool_is_refused_for_exact_jobs_only(
    cluster: LocalCluster, tmp_path: Path, tool: str, what: str
) -> None:
    cluster.worker("other", path=other(tmp_path / "bin", tool))
    cluster.await_workers(1)
    said: list[str] = []
    assert [one.worker for one in jobs.run(doubles(2), scheduler=cluster.address, note=said.append)] == ["other"] * 2
    (told,) = said
    assert "other is refused for exact jobs" in told
    assert f"{tool} version 1.2.3" in told
    assert getattr(ids.identity(), what) in told
    with pytest.raises(HarnessError, match=r"exact, 1 guests.*version 1\.2\.3"):
        list(jobs.run(doubles(2, exact=True), scheduler=cluster.address))
    cluster.worker("same")
    cluster.await_workers(2)
    found = list(jobs.run(doubles(6, exact=True), scheduler=cluster.address))
    assert [one.worker for one in found] == ["same"] * 6


def test_other_code_is_refused_for_all(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.worker("one")
    cluster.await_workers(1)
    monkeypatch.setattr(ids, "probe_digest", lambda: "another probe, here and not there")
    with pytest.raises(HarnessError, match=r"its kst is another .*, here "):
        list(jobs.run(doubles(1), scheduler=cluster.address))


@pytest.mark.parametrize("folder", ["suites", "vm_images"])
def test_what_a_run_is_made_of_is_part_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """But what Python leaves beside it is not."""
    monkeypatch.setattr(ids, "data_dir", lambda name: tmp_path / name)
    (tmp_path / folder / "a").mkdir(parents=True)
    (tmp_path / folder / "a" / "test_a.py").write_text("one")
    before = ids.identity()
    (tmp_path / folder / "a" / "__pycache__").mkdir()
    (tmp_path / folder / "a" / "__pycache__" / "test_a.pyc").write_text("compiled")
    assert ids.identity() == before
    (tmp_path / folder / "a" / "test_a.py").write_text("two")
    assert ids.identity().code != before.code


def test_a_killed_workers_job_runs_elsewhere_and_counts_once(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.worker("one")
    cluster.worker("two")
    cluster.await_workers(2)
    log = tmp_path / "calls"
    work = [jobs.Job("killer", jobs_calls.kill_own_worker, (str(log), 1)), *doubles(6)]
    found = {}
    for one in jobs.run(work, scheduler=cluster.address):
        assert one.key not in found
        assert one.error is None
        found[one.key] = one
    assert found.keys() == {job.key for job in work}
    assert (found["killer"].value, found["killer"].attempts) == (2, 2)
    assert sum(cluster.processes[name].poll() is not None for name in ("one", "two")) == 1


def test_a_job_that_kills_every_worker_is_given_up(cluster: LocalCluster, tmp_path: Path) -> None:
    names = ["one", "two", "three", "four", "five"]
    for name in names:
        cluster.worker(name)
    cluster.await_workers(len(names))
    log = tmp_path / "calls"
    (found,) = jobs.run([jobs.Job("killer", jobs_calls.kill_own_worker, (str(log), 99))], scheduler=cluster.address)
    assert "its worker died" in str(found.error)
    assert found.attempts == log.stat().st_size < len(names)


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REACH", 1.0)
    before = {thread.name for thread in threading.enumerate()}
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for address in (f"tcp://127.0.0.1:{port}", "nonsense://x", f"127.0.0.1:{port}"):
        with pytest.raises(HarnessError, match="no Dask scheduler at") as error:
            list(jobs.run(doubles(1), scheduler=address))
        assert "\n" not in str(error.value)
    assert {thread.name for thread in threading.enumerate()} - before == set(), "a half-made client is left behind"


def test_a_scheduler_that_goes_away_ends_the_work(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.worker("one")
    cluster.await_workers(1)
    began = tmp_path / "began"
    work = [
        *doubles(1),
        jobs.Job("long", jobs_calls.wait_for_file, (str(tmp_path / "never"), str(began))),
    ]
    running = jobs.run(work, scheduler=cluster.address)
    assert next(running).key == "j0"
    cluster.processes["scheduler"].kill()
    start = time.monotonic()
    with pytest.raises(HarnessError, match="went away"):
        list(running)
    assert time.monotonic() - start < BOUND


def test_closing_early_drops_what_has_not_begun(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.worker("one")
    cluster.await_workers(1)
    go, began = tmp_path / "go", [tmp_path / f"began{n}" for n in range(3)]
    work = [*doubles(1), *(jobs.Job(each.name, jobs_calls.wait_for_file, (str(go), str(each))) for each in began)]
    running = jobs.run(work, scheduler=cluster.address)
    assert next(running).key == "j0"
    running.close()  # type: ignore[attr-defined]  # as Ctrl-C does
    go.touch()
    assert len(list(jobs.run(doubles(2), scheduler=cluster.address))) == 2, "the worker is free again"
    assert not began[1].exists()
    assert not began[2].exists()
