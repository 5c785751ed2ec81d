import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import results_factory as factory
from kernels_trees import commit_all, make_tree, user_git
from results_factory import record

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.results import Manifest, Record, RunFolder
from kselftests_py.results.record import encode


def test_what_is_written_is_read_back(tmp_path):
    records = [*factory.judged(), *factory.measured()]
    run = factory.run_folder(tmp_path / "run", records)
    again = RunFolder.open(tmp_path / "run")
    assert again.records() == [msgspec.json.decode(encode(one.bounded()), type=Record) for one in records]
    assert [one for one in again.records() if "hostile" not in one.id] == [
        one for one in records if "hostile" not in one.id
    ]
    assert again.manifest() == factory.manifest()
    assert run.path == again.path


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def test_default_name_is_under_kst_runs_and_new_each_time(tmp_path, monkeypatch):
    commit_all(make_tree(tmp_path / "linux"))
    monkeypatch.chdir(tmp_path / "linux")
    paths = {RunFolder.create().path for _ in range(5)}
    assert len(paths) == 5
    assert {path.parent.name for path in paths} == {"kst-runs"}
    assert user_git(tmp_path / "linux", "status", "--porcelain") == "", "runs in a kernel tree are no part of it"


@pytest.mark.parametrize("there", ["a run", "a half-made run", "other files", "a file", "a file above"])
def test_a_path_that_is_taken_is_refused(tmp_path, there):
    path = tmp_path / "run"
    if there == "a run":
        RunFolder.create(path)
    elif there == "a file":
        path.write_text("precious")
    elif there == "a file above":
        path.write_text("precious")
        path = path / "below"
    else:
        path.mkdir()
        (path / ("console" if there == "a half-made run" else "thesis.tex")).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as error:
        RunFolder.create(path)
    assert str(path) in one_line(error)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_used(tmp_path):
    assert RunFolder.create(tmp_path).records() == []


def test_an_unwritable_place_is_one_clear_line():
    # /proc refuses new entries, to root too.
    with pytest.raises(HarnessError) as error:
        RunFolder.create(Path("/proc/kst-run"))
    assert "/proc/kst-run" in one_line(error)


def test_opening_what_is_no_run_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError) as error:
        RunFolder.open(tmp_path / "nowhere")
    assert "not a run folder" in one_line(error)


def test_a_full_disk_is_one_clear_line(tmp_path):
    run = factory.run_folder(tmp_path / "run", [])
    (run.path / "results.jsonl").unlink()
    (run.path / "results.jsonl").symlink_to("/dev/full")
    with pytest.raises(HarnessError) as error:
        run.append(record())
    assert "No space left" in one_line(error)


def test_a_write_that_fails_half_way_leaves_no_half_line(tmp_path):
    """A file size limit in a child process: the kernel writes up to it, then refuses."""
    run = factory.run_folder(tmp_path / "run", [record(id="first")])
    child = """
import resource, signal, sys
from pathlib import Path
import results_factory as factory
from kselftests_py.errors import HarnessError
from kselftests_py.results import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = RunFolder.open(Path(sys.argv[1]))
size = (run.path / "results.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    run.append(factory.record(id="second", log="x" * 1000))
except HarnessError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
run.append(factory.record(id="third"))
"""
    done = run_child(child, run.path)
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [one.id for one in run.records()] == ["first", "third"]


def run_child(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(),
    )


def child_env() -> dict[str, str]:
    tests = Path(__file__).parent
    return os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}


def test_a_killed_run_leaves_what_it_had(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    code = """
import os, signal, sys
from pathlib import Path
import results_factory as factory
from kselftests_py.results import RunFolder
run = RunFolder.open(Path(sys.argv[1]))
for number in range(20):
    run.append(factory.record(id=f"test_{number}"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_child(code, run.path).returncode == -signal.SIGKILL
    assert [one.id for one in run.records()] == [f"test_{number}" for number in range(20)]
    assert run.manifest() == Manifest()


def test_two_writers_do_not_mix_their_lines(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    code = """
import sys
from pathlib import Path
import results_factory as factory
from kselftests_py.results import RunFolder
run = RunFolder.open(Path(sys.argv[1]))
for number in range(50):
    run.append(factory.record(id=f"{sys.argv[2]}-{number}", log="x" * 20_000))
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(run.path), name], env=child_env()) for name in ("a", "b")
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    ids = [one.id for one in run.records()]
    for name in ("a", "b"):
        assert [one for one in ids if one.startswith(name)] == [f"{name}-{number}" for number in range(50)]


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_an_unfinished_last_line_is_left_out(tmp_path, keep):
    run = factory.run_folder(tmp_path / "run", [record(id="first"), record(id="second")])
    path = run.path / "results.jsonl"
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:keep])
    assert [one.id for one in run.records()] == ["first"]


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path):
    run = factory.run_folder(tmp_path / "run", [record(id="first"), record(id="second")])
    path = run.path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert [one.id for one in run.records()] == ["first", "second"]


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"\xff\xfe", b"[1]", b"null", b'{"id": "x"', b"\x00" * 100])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_rubbish_is_an_error_that_names_the_line(tmp_path, rubbish, place):
    run = factory.run_folder(tmp_path / "run", [record(id="first"), record(id="second")])
    path = run.path / "results.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines.insert(place, rubbish)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(HarnessError) as error:
        run.records()
    assert f"line {place + 1}:" in one_line(error)


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"\xff", b'{"schema_version": 2}'])
def test_a_manifest_that_is_none_is_an_error(tmp_path, rubbish):
    run = factory.run_folder(tmp_path / "run", [])
    (run.path / "manifest.json").write_bytes(rubbish)
    with pytest.raises(HarnessError) as error:
        run.manifest()
    assert "manifest.json" in one_line(error)


def test_a_file_that_cannot_be_written_keeps_the_old_one(tmp_path):
    run = factory.run_folder(tmp_path / "run", [])
    code = """
import resource, signal, sys
from pathlib import Path
import results_factory as factory
from kselftests_py.errors import HarnessError
from kselftests_py.results import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    RunFolder.open(Path(sys.argv[1])).write_manifest(factory.manifest(finished="later"))
except HarnessError as error:
    print(error)
"""
    assert "manifest.json: File too large" in run_child(code, run.path).stdout
    assert run.manifest() == factory.manifest()
    assert sorted(path.name for path in run.path.iterdir()) == ["console", "manifest.json", "results.jsonl"]


LABELS = [
    "debian:7.3",
    "debian/7.3",
    "../../etc/passwd",
    "",
    ".",
    "..",
    "a" * 500,
    "tree:~/linux",
    "\udcff",
    "a\nb",
    "é",
]


def test_consoles_have_plain_names_of_their_own(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    paths = [run.new_console(label) for label in LABELS for _ in range(2)]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path.parent == run.path / "console"
        assert path.resolve().parent == (run.path / "console").resolve()
        assert path.read_bytes() == b""
