"""A running machine over SSH: the probe is copied there and driven; refusals end in one line. Real sshd on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import RunningKernel, resolve
from kselftests_py.lab import Lab
from kselftests_py.lab.build import agent
from kselftests_py.lab.channel import ChannelError, ChannelTimeout
from kselftests_py.machines.machine import LEFT, Loss
from kselftests_py.machines.ssh import SshHost
from kselftests_py.results import RunFolder

pytestmark = [
    pytest.mark.skipif(shutil.which("dropbear") is None, reason="no dropbear to connect to"),
    pytest.mark.skipif(os.geteuid() != 0, reason="dropbear logs users in as root only"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningKernel]:
    """A dropbear that knows one key, and a home that knows dropbear."""
    home, port = tmp_path / "home", free_port()
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    made = ["dropbearkey", "-t", "ed25519", "-f", str(tmp_path / "hostkey")]
    public = subprocess.run(made, check=True, capture_output=True, text=True).stdout
    key = next(line for line in public.splitlines() if line.startswith("ssh-ed25519")).split()[1]
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} ssh-ed25519 {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh" / "id_ed25519"], check=True)
    shutil.copy(home / ".ssh" / "id_ed25519.pub", home / ".ssh" / "authorized_keys")
    # dropbear takes the keys of the login's own home: in its mount namespace /root is the home made here.
    script = 'mount --bind "$0" /root && exec dropbear -F -E -s -r "$1" -p "$2"'
    values = [str(home), str(tmp_path / "hostkey"), f"127.0.0.1:{port}"]
    server = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, *values], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "dropbear did not listen within 20 s"
            time.sleep(0.05)
    kernel = resolve(f"ssh:root@127.0.0.1:{port}")
    assert isinstance(kernel, RunningKernel)
    yield kernel
    server.kill()
    server.wait()


def test_probe_is_copied_and_driven(sshd: RunningKernel) -> None:
    for _ in range(2):  # the second time it is there already
        host = SshHost(sshd, agent())
        host.start()
        lab = Lab(host.channel())
        assert lab.hello().protocol == 1
        with lab.subject() as subject:
            region = subject.region("anon", pages=2).populate()
            assert region.changed_pages() == set()
        assert host.run("echo over there; exit 7", 20) == (7, "over there\n")
        host.stop()


def test_a_command_is_left_once_it_has_said_enough_and_a_silent_one_hangs(sshd: RunningKernel) -> None:
    host = SshHost(sshd, agent())
    host.start()
    try:
        assert host.run("echo one two; exec sleep 600", 60, until=lambda said: b"two" in said) == (LEFT, "one two\n")
        assert host.run("echo one; exit 3", 60, until=lambda said: b"two" in said, quiet=30) == (3, "one\n")
        with pytest.raises(ChannelTimeout, match="no word of 'echo one; exec sleep 600' for 1 s") as silent:
            host.run("echo one; exec sleep 600", 60, quiet=1)
        with pytest.raises(ChannelTimeout, match="no end of 'echo one; exec sleep 600' within 1 s") as endless:
            host.run("echo one; exec sleep 600", 1, quiet=60)
        assert silent.value.output == endless.value.output == b"one\n"
    finally:
        host.stop()


def test_loss_of_the_connection_is_recognised(sshd: RunningKernel) -> None:
    host = SshHost(sshd, agent())
    host.start()
    host.run("pkill -f .cache/kst/agent", 20)
    with pytest.raises(ChannelError) as caught:
        host.channel().call(b'{"id": 1, "op": "hello"}', 10)
    assert host.diagnose(caught.value).loss is Loss.LOST
    host.stop()


def test_unknown_host_key_and_wrong_key_are_refused_in_one_line(sshd: RunningKernel) -> None:
    known, key = (Path(os.environ["HOME"]) / ".ssh" / name for name in ("known_hosts", "id_ed25519"))
    trusted = known.read_text()
    known.write_text("")
    with pytest.raises(HarnessError, match="no SSH connection") as caught:
        SshHost(sshd, agent()).start()
    assert "\n" not in str(caught.value)
    known.write_text(trusted)
    key.unlink()
    with pytest.raises(HarnessError, match="no SSH connection"):
        SshHost(sshd, agent()).start()


def test_hosts_over_ssh_are_compared_in_wall_time(sshd: RunningKernel, tmp_path: Path) -> None:
    """The same host twice, two blocks each: what it is like is read over there; two blocks are no verdict."""
    command = [Path(sys.executable).parent / "kst", "compare", sshd.spec, sshd.spec, "--mode", "wall", "--boots", "2"]
    command += ["--json", "--out", tmp_path / "run", "-k", "protect_cost and wp and anon"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    told = json.loads(done.stdout)
    if told["verdict"] == "NOTHING TESTED":
        pytest.skip("userfaultfd write protection is not to be had here")
    assert (done.returncode, told["wall"]["replicate"]) == (0, "block"), done.stderr[-2000:]
    assert {one["verdict"] for one in told["wall"]["changes"]} == {"cannot tell"}
    assert all("4 readings" in entry.noise["load"] for entry in RunFolder.open(tmp_path / "run").manifest().kernels)
