"""The bootstrap script ``./kst``: run for real, with stubs in PATH for Python, apt-get, sudo and id (no network)."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kselftests_py import requirements

ROOT = Path(__file__).resolve().parent.parent
WAIT = 60  # bound of everything awaited here, in seconds

# A Python that makes virtual environments holding a copy of itself, whose pip only notes that it was called,
# waits for the FIFO $HOLD where there is one, and fails where there is a file $TMP_DIR/no-network.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) [ ! -e "$STATE/old" ] ;;
-V) echo "Python 3.9.2" ;;
"-c import ensurepip") [ -e "$STATE/ensurepip" ] ;;
"-m pip --version") exit 0 ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" && echo venv >>"$STATE/calls" ;;
"-m pip install "*)
    echo pip >>"$STATE/calls"
    echo Successfully installed
    touch "${0%/*}/half-made"
    if [ -p "$STATE/hold" ]; then read -r _ <"$STATE/hold"; fi
    if [ -e "$STATE/no-network" ]; then echo "ERROR: No matching distribution found" >&2; exit 1; fi
    printf '#!/bin/sh\\necho "ran $*"\\n' >"${0%/*}/kst" && chmod +x "${0%/*}/kst" && rm "${0%/*}/half-made" ;;
*) exit 1 ;;
esac
"""
APT = """#!/bin/sh
echo "apt-get $*" >>"$STATE/calls"
case "$*" in
*" install "*|install*) if [ -e "$STATE/no-network" ]; then echo "E: Unable to fetch" >&2; exit 100; fi
    for last; do :; done
    printf '#!/bin/sh\\n' >"$STATE/bin/$last" && chmod +x "$STATE/bin/$last" && touch "$STATE/ensurepip" ;;
esac
"""
SUDO = '#!/bin/sh\n[ -e "$STATE/sudoers" ] || exit 1\n[ "$1" != -n ] || shift\nexec "$@"\n'
ID = '#!/bin/sh\ncat "$STATE/uid"\n'
LIST = (
    "# a  required  comment  x\ntool-package  required  tool-package  the tool\nextra  optional  no-such-thing  more\n"
)
TOOLS = [
    "cat",
    "chmod",
    "cp",
    "env",
    "find",
    "flock",
    "grep",
    "ls",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sh",
    "sha256sum",
    "tail",
    "touch",
    "true",
]


class Checkout:
    """A copy of the script with its two inputs, and the state that the stubs read and write."""

    def __init__(self, tmp: Path) -> None:
        self.root = tmp / "a checkout"
        self.state = tmp / "state"
        self.venv = self.root / ".venv"
        self.bin = self.state / "bin"
        self.bin.mkdir(parents=True)
        (self.root / "kselftests_py").mkdir(parents=True)
        shutil.copy(ROOT / "kst", self.root / "kst")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.list = self.root / "kselftests_py" / "debian-packages.txt"
        self.list.write_text(LIST)
        for name, text in {"python3": PYTHON, "apt-get": APT, "sudo": SUDO, "id": ID}.items():
            self.stub(name, text)
        (self.state / "uid").write_text("0\n")
        (self.state / "ensurepip").touch()
        # Only what the script may use: no other Python, no real apt-get. /usr/sbin and /sbin it adds by itself.
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "/nonexistent")
        self.env = {"PATH": str(self.bin), "STATE": str(self.state), "HOME": str(tmp)}

    def stub(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def have(self, command: str) -> None:
        self.stub(command, "#!/bin/sh\n")

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "kst", *args],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=WAIT)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """The calls of the stubs since the last look."""
        path = self.state / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout that is set up already."""
    checkout.have("tool-package")
    assert checkout.run() == (0, "ran \n", pip_message(checkout))
    checkout.calls()
    return checkout


def pip_message(checkout: Checkout) -> str:
    what = "this package and the Python packages that pyproject.toml names, from PyPI,"
    return f"kst: installs {what} into {checkout.venv}\n"


def test_first_call_says_what_it_installs_then_hands_over(checkout: Checkout) -> None:
    status, out, err = checkout.run("run", "--kernel", "two words")
    assert (status, out) == (0, "ran run --kernel two words\n")
    assert err.splitlines()[0] == "kst: installs Debian packages, with apt-get as root: tool-package"
    assert err.splitlines()[1:] == pip_message(checkout).splitlines()
    assert [call.split()[0] for call in checkout.calls()] == ["apt-get", "apt-get", "venv", "pip"]


def test_second_call_does_nothing(ready: Checkout) -> None:
    assert ready.run("doctor") == (0, "ran doctor\n", "")
    assert ready.calls() == []


def test_it_can_be_called_through_a_symbolic_link_and_from_elsewhere(ready: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ready.root / "kst")
    done = subprocess.run([link, "x"], env=ready.env, cwd="/", capture_output=True, text=True, timeout=WAIT, check=True)
    assert (done.stdout, done.stderr, ready.calls()) == ("ran x\n", "", [])


@pytest.mark.parametrize("changed", ["pyproject.toml", "kselftests_py/debian-packages.txt"])
def test_changed_inputs_set_up_again_in_place(ready: Checkout, changed: str) -> None:
    path = ready.root / changed
    path.write_text(path.read_text() + "# more\n")
    assert ready.run() == (0, "ran \n", pip_message(ready))
    assert ready.calls() == ["pip"]
    assert ready.run() == (0, "ran \n", "")


def test_a_copied_checkout_gets_its_own_environment(ready: Checkout, tmp_path: Path) -> None:
    shutil.copytree(ready.root, tmp_path / "copy", symlinks=True)
    ready.root = tmp_path / "copy"
    assert ready.run()[0] == 0
    assert ready.calls() == ["venv", "pip"]


def test_a_debian_package_removed_later_is_installed_again(ready: Checkout) -> None:
    (ready.bin / "tool-package").unlink()
    status, _, err = ready.run()
    assert (status, err) == (0, "kst: installs Debian packages, with apt-get as root: tool-package\n")


@pytest.mark.parametrize("sudoer", [True, False])
def test_an_ordinary_user(checkout: Checkout, sudoer: bool) -> None:
    (checkout.state / "uid").write_text("1000\n")
    if sudoer:
        (checkout.state / "sudoers").touch()
    status, out, err = checkout.run()
    if sudoer:
        assert (status, out) == (0, "ran \n")
        assert "installs Debian packages" in err
    else:
        missing = "kst: missing, and neither root nor sudo here; ask for: apt-get install tool-package\n"
        assert (status, out, err, checkout.calls()) == (3, "", missing, [])


def test_the_doctor_installs_only_what_the_virtual_environment_needs(checkout: Checkout) -> None:
    checkout.list.write_text(LIST + "python3-venv  setup  module:ensurepip  makes it\n")
    assert checkout.run("doctor") == (0, "ran doctor\n", pip_message(checkout))
    assert checkout.calls() == ["venv", "pip"]


def test_python_venv_is_installed_where_debian_split_it_off(checkout: Checkout) -> None:
    checkout.have("tool-package")
    checkout.list.write_text(LIST + "python3-venv  setup  module:ensurepip  makes it\n")
    (checkout.state / "ensurepip").unlink()
    status, _, err = checkout.run()
    assert (status, err.splitlines()[0]) == (0, "kst: installs Debian packages, with apt-get as root: python3-venv")


def test_a_package_that_does_not_bring_what_it_should_is_told(checkout: Checkout) -> None:
    checkout.have("tool-package")
    checkout.list.write_text("liar  required  /nonexistent/file  nothing\n")
    status, _, err = checkout.run()
    assert status == 3
    assert "still missing after apt-get installed them: liar" in err


def one_line(err: str) -> str:
    """The last line of *err*, which must be the one that tells what is wrong."""
    complaint = err.splitlines()[-1]
    assert complaint.startswith("kst: ")
    assert "installs" not in complaint
    return complaint


@pytest.mark.parametrize(
    ("tool", "complaint"), [(False, "E: Unable to fetch"), (True, "ERROR: No matching distribution")]
)
def test_no_network_is_one_line_that_names_the_log(checkout: Checkout, tool: bool, complaint: str) -> None:
    if tool:
        checkout.have("tool-package")
    (checkout.state / "no-network").touch()
    status, out, err = checkout.run()
    assert (status, out) == (3, "")
    assert complaint in one_line(err)
    assert str(checkout.venv / "setup.log") in one_line(err)
    assert complaint in (checkout.venv / "setup.log").read_text()
    (checkout.state / "no-network").unlink()
    assert checkout.run()[:2] == (0, "ran \n"), "the next call must recover"


def test_an_old_python_is_one_line(checkout: Checkout) -> None:
    (checkout.state / "old").touch()
    status, out, err = checkout.run()
    assert (status, out) == (3, "")
    assert err.count("\n") == 1
    assert f"needs Python 3.11 or newer, found only Python 3.9.2 ({checkout.bin / 'python3'});" in one_line(err)


def test_a_list_that_is_not_there_is_one_line(checkout: Checkout) -> None:
    status, out, err = checkout.run(KST_REQUIREMENTS="/no/such/list")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "cannot read the list of requirements /no/such/list" in one_line(err)


def test_a_directory_that_is_no_environment_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis"
    precious.parent.mkdir()
    precious.write_text("x")
    status, _, err = checkout.run(KST_VENV=str(precious.parent))
    assert status == 3
    assert "neither a virtual environment nor empty" in one_line(err)
    assert list(precious.parent.iterdir()) == [precious]


def test_an_environment_that_kst_cannot_make_is_told(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = checkout.run(KST_VENV=str(tmp_path / "file"))
    assert (status, err) == (
        3,
        f"kst: cannot write {tmp_path / 'file'}: set KST_VENV to a directory that you may write\n",
    )


def test_an_environment_made_by_somebody_else_is_used_and_never_emptied(checkout: Checkout, tmp_path: Path) -> None:
    checkout.have("tool-package")
    own = tmp_path / "own"
    subprocess.run([checkout.bin / "python3", "-m", "venv", own], env=checkout.env, check=True)
    (own / "bin" / "my-tool").touch()
    checkout.calls()
    (checkout.state / "no-network").touch()
    assert checkout.run(KST_VENV=str(own))[0] == 3
    (checkout.state / "no-network").unlink()
    assert checkout.run("x", KST_VENV=str(own))[:2] == (0, "ran x\n")
    assert checkout.calls() == ["pip", "pip"]
    assert (own / "bin" / "my-tool").exists()


def hold(checkout: Checkout) -> subprocess.Popen[str]:
    """Start a first call and return once it is held in the middle of pip."""
    checkout.have("tool-package")
    os.mkfifo(checkout.state / "hold")
    return checkout.start("first")


def test_two_first_calls_at_once_set_up_once(checkout: Checkout) -> None:
    first = hold(checkout)
    fifo = os.open(checkout.state / "hold", os.O_WRONLY)  # returns as soon as the first one's pip reads it
    second = checkout.start("second")
    assert second.stderr is not None
    assert "another kst is setting up" in second.stderr.readline()
    (checkout.state / "hold").unlink()
    os.write(fifo, b"\n")
    os.close(fifo)
    assert first.communicate(timeout=WAIT)[0] == "ran first\n"
    assert second.communicate(timeout=WAIT)[0] == "ran second\n"
    assert (checkout.venv / "setup.log").read_text() == "Successfully installed\n", "the log of the one is kept"
    assert checkout.calls() == ["venv", "pip"]


def test_a_killed_set_up_is_made_anew(checkout: Checkout) -> None:
    first = hold(checkout)
    fifo = os.open(checkout.state / "hold", os.O_WRONLY)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=WAIT)
    os.close(fifo)
    (checkout.state / "hold").unlink()
    assert (checkout.venv / "bin" / "half-made").exists()
    checkout.calls()
    assert checkout.run("again")[:2] == (0, "ran again\n")
    assert checkout.calls() == ["venv", "pip"]
    assert not (checkout.venv / "bin" / "half-made").exists()


@pytest.mark.parametrize(
    "check",
    ["sh", "no-such-command", "/bin/s[h]", "/bin/no-such*", "module:json", "module:nosuch", "include:no-such.h"],
)
def test_script_and_doctor_agree_on_every_kind_of_check(checkout: Checkout, check: str) -> None:
    (checkout.bin / "python3").unlink()
    (checkout.bin / "python3").symlink_to(Path(sys.executable).resolve())  # PATH may hold a version manager's shim
    (checkout.state / "uid").write_text("1000\n")
    checkout.list.write_text(f"thing  required  {check}  x\nsentinel  required  no-such-sentinel  x\n")
    status, _, err = checkout.run()
    assert status == 3
    listed = err.rpartition("apt-get install ")[2].split()
    assert (requirements.find(check) is None) == (len(listed) == 2), err
