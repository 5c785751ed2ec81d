"""The probe as it is shipped: a static agent, a cffi module with the same operations, a fuzzed parser."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from probe_agent import BOUND_S, PROBE, Agent, await_end, built


def make(*arguments: str) -> None:
    done = subprocess.run(["make", "-s", "-C", str(PROBE), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_agent_is_static_and_answers() -> None:
    program = built("agent")
    headers = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers
    agent = Agent(program)
    assert agent.subject().proc_read(name="comm") == {"text": "agent\n"}
    agent.close()


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cffi")
    make("cffi", f"O={output}", f"PYTHON={sys.executable}")
    return output


PRELUDE = """
import json, sys, threading
sys.path.insert(0, sys.argv[1])
from _kst_native import ffi, lib
agent = lib.kst_agent_new()
def call(**request):
    line = json.dumps({"id": 1, **request}).encode()
    reply = lib.kst_agent_handle(agent, line, len(line))
    try:
        return json.loads(ffi.string(reply))
    finally:
        lib.free(reply)
"""


def in_python(module: Path, body: str) -> subprocess.Popen[str]:
    code = PRELUDE + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code, str(module)], stdout=subprocess.PIPE, text=True)


def test_cffi_module_has_the_same_operations(module: Path) -> None:
    process = in_python(
        module,
        """
        subject = call(op="subject_new")["result"]["subject"]
        region = call(subject=subject, op="region", kind="shmem", pages=2)["result"]
        call(subject=subject, op="poke", addr=region["addr"], value=42)
        print(call(subject=subject, op="peek", addr=region["addr"]))
        print(call(subject=subject, op="peek", addr=8))
        print(call(op="subjects"))
        print(call(op="hello")["result"]["protocol"])
        lib.kst_agent_free(agent)
        """,
    )
    output, _ = process.communicate(timeout=BOUND_S)
    assert output.splitlines() == [
        "{'id': 1, 'result': {'value': 42}}",
        "{'id': 1, 'died': 'killed by SIGSEGV'}",
        "{'id': 1, 'result': []}",
        "1",
    ]
    assert process.returncode == 0


def test_subject_outlives_the_thread_that_made_it_but_not_the_process(module: Path) -> None:
    process = in_python(
        module,
        """
        made = []
        thread = threading.Thread(target=lambda: made.append(call(op="subject_new")["result"]))
        thread.start()
        thread.join()
        print(made[0]["pid"], call(subject=made[0]["subject"], op="proc_read", name="comm"), flush=True)
        sys.stdin.read()
        """,
    )
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], BOUND_S)[0]
    pid, reply = process.stdout.readline().split(" ", 1)
    assert "'result'" in reply
    process.kill()
    process.communicate()
    assert await_end(int(pid))


def test_no_request_crashes_the_parser(tmp_path: Path) -> None:
    """libFuzzer with ASan, UBSan and leak detection over the agent's and the subject's request handling."""
    clang = os.environ.get("FUZZ_CC", "clang")
    if not shutil.which(clang):
        pytest.skip("no clang to build the fuzzer with")
    runtime = subprocess.run([clang, "-print-runtime-dir"], capture_output=True, text=True, check=True).stdout.strip()
    if not list(Path(runtime).parent.rglob("libclang_rt.fuzzer*.a")):
        pytest.skip(f"{clang} is here without its runtime (libclang-rt-dev)")
    make("fuzz", f"O={tmp_path}", "SECONDS=6")
