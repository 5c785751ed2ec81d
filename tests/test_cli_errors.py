"""Bad input of the command line: one clear line, the documented exit code, nothing lost. No network, no VM."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kernels_mirror import bzimage

from kselftests_py import cli, kernels
from kselftests_py.results import RunFolder

QUICK = ["--kernel", "host", "--suite", "trapping", "-k", "test_only_the_range_is_trapped and anon and wp"]


def kst(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--kernel", "debain:7.3"], 2, "debian:"),
        (["--kernel", "image:/nonexistent/vmlinuz"], 2, "/nonexistent/vmlinuz"),
        (["--kernel", "host", "--suite", "trappin"], 2, "did you mean 'trapping'?"),
        (["--kernel", "host", "--suite", "zzz"], 2, "there are: eviction, idle, latency, trapping"),
        (["--kernel", "host", "--baseline", "host"], 2, "are the same kernel"),
        (["--kernel", "ssh:nobody@127.0.0.1:1", "--suite", "idle"], 3, "no SSH connection"),
        (["--kernel", "host", "--memory", "3x"], 2, "--memory"),
        (["--baseline", "image:/nonexistent/vmlinuz", "--kernel", "debain:7.3"], 2, "debian:"),
        ([*QUICK, "--out", "/proc/no/such"], 3, "/proc/no/such"),
        ([*QUICK, "-k", "no_such_test"], 3, "no test ran"),
        ([*QUICK, "-k", "anon and ("], 2, "kst: -k anon and (: no expression"),
        (
            ["--kernel", "host", "--suite", "upstream"],
            3,
            "running kernel is not known; give source:, tree: or git:; no",
        ),
    ],
    ids=[
        "spec",
        "no-file",
        "typo",
        "no-suite",
        "same",
        "ssh",
        "memory",
        "second-spec",
        "out",
        "nothing",
        "expression",
        "upstream",
    ],
)
def test_one_line_and_the_exit_code(
    arguments: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kst("run", *arguments)
    assert result.exit_code == code, result.output
    assert any(told in line for line in result.output.splitlines()), result.output
    assert "Traceback" not in result.output


def test_file_that_is_no_kernel(tmp_path: Path) -> None:
    rubbish = tmp_path / "vmlinuz"
    rubbish.write_bytes(b"not a kernel" * 1000)
    result = kst("run", "--kernel", f"image:{rubbish}")
    assert (result.exit_code, str(rubbish) in result.output) == (2, True), result.output


def test_upstream_without_a_source_is_told_before_the_boot(tmp_path: Path) -> None:
    """That the boot of this kernel, which is a header and nothing else, would fail is not come to."""
    (tmp_path / "vmlinuz").write_bytes(bzimage("7.3.4-mine"))
    spec = f"image:{tmp_path / 'vmlinuz'}"
    alone = kst("run", "--kernel", spec, "--suite", "upstream", "--out", tmp_path / "run")
    assert alone.exit_code == 3
    assert (
        alone.output == f"kst: {spec}: its source is not known; name it: {spec},source=SPEC; nothing would be tested\n"
    )
    assert not (tmp_path / "run").exists()


def test_upstream_beside_another_suite_is_skipped_and_that_is_told(tmp_path: Path) -> None:
    beside = kst("run", *QUICK, "--suite", "upstream", "--out", tmp_path / "run")
    assert beside.exit_code == 0, beside.output
    assert "host: --suite upstream is skipped: host: the source of a running kernel is not known" in beside.output


def test_run_folder_is_never_used_twice(tmp_path: Path) -> None:
    first = kst("run", *QUICK, "--out", tmp_path / "run", "--json")
    assert first.exit_code == 0, first.output
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    second = kst("run", *QUICK, "--out", tmp_path / "run")
    assert (second.exit_code, "holds a run already" in second.output) == (2, True), second.output
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before


def test_a_folder_that_is_used_is_told_before_a_kernel_is_had(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").touch()
    result = kst("run", "--kernel", "image:/nonexistent/vmlinuz", "--out", tmp_path)
    assert (result.exit_code, "holds a run already" in result.output) == (2, True), result.output


def test_json_and_every_report(tmp_path: Path) -> None:
    result = kst("run", *QUICK, "--out", tmp_path / "run", "--json")
    told = json.loads(result.stdout)
    assert (told["verdict"], told["exit_code"], told["run"]) == ("PASS", 0, str(tmp_path / "run"))
    assert sum(told["counts"].values()) == len(RunFolder.open(tmp_path / "run").records())
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "results.jsonl", "manifest.json", "junit.xml", "ktap.txt", "report.html", "console",
    }  # fmt: skip
    (tmp_path / "run" / "report.html").unlink()
    again = kst("report", tmp_path / "run")
    assert (again.exit_code, (tmp_path / "run" / "report.html").is_file()) == (0, True)


def test_report_of_what_is_no_run(tmp_path: Path) -> None:
    result = kst("report", tmp_path)
    assert (result.exit_code, "is not a run folder" in result.output) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_full_disk_ends_the_run_with_one_line(tmp_path: Path) -> None:
    """The run folder is on a file system of 16 KiB: the run stops, says so once, ends with 3, and keeps what it had."""
    (tmp_path / "small").mkdir()
    command = " ".join(["mount -t tmpfs -o size=16k tmpfs small && cd small && kst run --suite trapping --kernel host"])
    keep = "; code=$?; cp -r run/results.jsonl ..; exit $code"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{command} --out run{keep}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("kst: ")]
    assert len(told) == 1
    assert "No space left" in told[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "results.jsonl").read_bytes().count(b"\n") > 3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/cache/x"),
            "kst: /cache/x: No space left on device; free some space",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "make"), "kst: make: No such file or directory"),
        (OSError("of no number"), "kst: of no number"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, error: OSError, told: str) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(kernels, "list_images", refused)
    result = kst("kernels")
    assert (result.exit_code, result.output) == (3, f"{told}\n")


def test_a_mistake_of_ours_is_not_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: Python itself would end with 1, which is "the kernel failed"."""

    def mistaken() -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(kernels, "list_images", mistaken)
    result = kst("kernels")
    assert result.exit_code == 3
    assert "IndexError" in result.output  # for the report
    assert "kst's own" in result.output.splitlines()[-1]


@pytest.mark.parametrize("command", [("compare", "debian:7.3", "debian:7.2"), ("history",)])
def test_a_size_of_memory_that_is_none_is_told_by_every_command(command: tuple[str, ...]) -> None:
    result = kst(*command, "--memory", "3x")
    assert (result.exit_code, result.output) == (2, "kst: --memory 3x: give a number with K, M or G, for example 1G\n")


def test_a_reader_that_goes_away_is_no_failure_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a closed pipe (kst kernels | head) is nobody's loss: no line about it."""

    def gone() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(kernels, "list_images", gone)
    result = kst("kernels")
    assert (result.exit_code, result.output) == (1, "")


def test_help_names_the_exit_codes() -> None:
    assert "125 the kernel did not build or boot" in " ".join(kst("run", "--help").output.split())
