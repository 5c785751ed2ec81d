"""The pipelines of ci/ do what their heads say: their own steps run with a stub kst, and the systems' schemas hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CI = Path(__file__).parent.parent / "ci"
CODES = [0, 1, 2, 3, 125, 130]
STUB = """#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
[ "${0##*/}" != kst ] || { echo '{"verdict":"stub"}'; exit "$CODE"; }
"""


def gitlab() -> str:
    return "\n".join(yaml.safe_load((CI / "gitlab-ci.yml").read_text())["kst"]["script"])


def github() -> str:
    steps = yaml.safe_load((CI / "github-actions.yml").read_text())["jobs"]["kst"]["steps"]
    return str(next(step["run"] for step in steps if step.get("name") == "Test"))


def jenkins() -> str:
    (script,) = re.findall(r"'''(.*?)'''", (CI / "Jenkinsfile").read_text(), re.DOTALL)
    return str(script)


def lava() -> str:
    return "\n".join(yaml.safe_load((CI / "lava-test.yaml").read_text())["run"]["steps"])


def shell() -> str:
    return f"{CI / 'run.sh'} arch/x86/boot/bzImage,config=.config results"


def steps(script: str, code: int, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """*script* run as these systems do, by ``sh -e``, beside a kst that ends with *code*; its end, and the calls."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in ("kst", "lava-test-case"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    calls = folder / "calls"
    environment = dict(os.environ, PATH=f"{stubs}:{os.environ['PATH']}", CALLS=str(calls), CODE=str(code))
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done, calls.read_text().splitlines()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("script", [shell, gitlab, github, jenkins])
def test_kst_gets_the_kernel_and_its_exit_code_is_kept(script: object, code: int, tmp_path: Path) -> None:
    done, calls = steps(script(), code, tmp_path)  # type: ignore[operator]
    wanted = "kst run --kernel image:arch/x86/boot/bzImage,config=.config --baseline none --out results --json"
    assert calls == [wanted]
    assert done.returncode == code


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("script", "words"),
    [(shell, ("passed", "failed", "infrastructure")), (github, ("", "=Kernel failed:", "=Infrastructure:"))],
)
def test_who_failed_is_said(script: object, words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    done, _ = steps(script(), code, tmp_path)  # type: ignore[operator]
    wanted = words[min(code, 2)]
    assert wanted in done.stdout
    assert [other for other in words if other and other != wanted and other in done.stdout] == []


@pytest.mark.parametrize("code", CODES)
def test_lava_is_told(code: int, tmp_path: Path) -> None:
    _, calls = steps(lava(), code, tmp_path)
    word = {0: "pass", 1: "fail"}.get(code, "unknown")
    assert calls[0] == "kst run --kernel host --baseline none --out results --json"
    assert calls[1:] == [f"lava-test-case kst --result {word} --measurement {code} --units exit-code"]


def test_only_infrastructure_is_forgiven_by_gitlab_and_junit_is_published() -> None:
    job = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["kst"]
    assert job["allow_failure"] == {"exit_codes": [3, 125]}
    assert job["artifacts"]["reports"]["junit"] == "results/junit.xml"
    assert "junit testResults: 'results/junit.xml'" in (CI / "Jenkinsfile").read_text()


@pytest.mark.parametrize(
    ("schema", "name", "breaks"),
    [
        ("vendor.gitlab-ci", "gitlab-ci.yml", ("exit_codes: [3, 125]", "exit_codes: never")),
        ("vendor.github-workflows", "github-actions.yml", ("runs-on:", "runs_on:")),
    ],
)
def test_the_systems_own_schema_holds(schema: str, name: str, breaks: tuple[str, str], tmp_path: Path) -> None:
    """Control: the same file with one mistake is refused."""
    broken = tmp_path / name
    broken.write_text((CI / name).read_text().replace(*breaks))
    program = Path(sys.executable).with_name("check-jsonschema")
    said = [
        subprocess.run([program, "--builtin-schema", schema, path], capture_output=True, text=True, check=False)
        for path in (CI / name, broken)
    ]
    assert said[0].returncode == 0, said[0].stdout
    assert said[1].returncode == 1, said[1].stdout


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", CI / "run.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
