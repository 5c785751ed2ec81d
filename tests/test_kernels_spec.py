"""What the user writes for a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from kselftests_py.errors import UsageError
from kselftests_py.kernels.spec import FORMS, DebianSpec, ImageSpec, RunningKernel, parse


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("debian:7.3", DebianSpec("debian:7.3", "7.3")),
        ("debian:newest", DebianSpec("debian:newest", "newest")),
        ("debian:7.3.4-1~bpo13+1", DebianSpec("debian:7.3.4-1~bpo13+1", "7.3.4-1~bpo13+1")),
        ("image:/a/b", ImageSpec("image:/a/b", Path("/a/b"), None, None)),
        ("image:/a,b", ImageSpec("image:/a,b", Path("/a,b"), None, None)),
        (
            "image:/a,config=/c,modules=/m",
            ImageSpec("image:/a,config=/c,modules=/m", Path("/a"), Path("/m"), Path("/c")),
        ),
        ("host", RunningKernel("host", "host")),
        ("ssh:box", RunningKernel("ssh:box", "ssh", None, "box", 22)),
        ("ssh:root@box.lan:2222", RunningKernel("ssh:root@box.lan:2222", "ssh", "root", "box.lan", 2222)),
        ("ssh:me@[fe80::1]:23", RunningKernel("ssh:me@[fe80::1]:23", "ssh", "me", "fe80::1", 23)),
        ("ssh:[::1]", RunningKernel("ssh:[::1]", "ssh", None, "::1", 22)),
    ],
)
def test_each_form_is_read(spec: str, meant: object) -> None:
    assert parse(spec) == meant


def test_a_path_of_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = parse("image:~/bzImage")
    assert isinstance(wanted, ImageSpec)
    assert wanted.vmlinuz == tmp_path / "bzImage"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", FORMS),
        ("debain:7.3", "did you mean debian:7.3?"),
        ("7.3", "did you mean debian:7.3?"),
        ("hots", "did you mean host?"),
        ("host:x", FORMS),
        ("/etc/passwd", "did you mean image:/etc/passwd?"),
        ("debian:", FORMS),
        ("debian:7.3; rm -rf /", "cannot be a version"),
        ("debian:../../etc", "cannot be a version"),
        ("image:", FORMS),
        ("image:/a,modules=", "wants one path"),
        ("image:/a,modules=/b,modules=/c", "wants one path"),
        ("image:/a,module=/b", "did you mean modules?"),
        ("ssh:", FORMS),
        ("ssh:@box", "is no user name"),
        ("ssh:-oProxyCommand=x@box", "is no user name"),
        ("ssh:me@-oProxyCommand", "is no host name"),
        ("ssh:me@", "is no host name"),
        ("ssh:me@box:0", "is no port"),
        ("ssh:me@box:70000", "is no port"),
        ("ssh:me@box:", "is no port"),
        ("ssh:me@fe80::1", "in brackets"),
        ("ssh:me@[fe80::zz]", "is no IPv6 address"),
        ("debian:7.3\n", "cannot be printed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(spec)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
