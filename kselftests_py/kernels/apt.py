"""A private apt root: Debian's index and packages, signature-checked, with nothing on the system changed.

Proxy, certificates and credentials stay those of the machine's apt. The mirror and its keyring too, unless
``KST_DEBIAN_MIRROR`` (a base URI) and ``KST_DEBIAN_KEYRING`` (a file) name others.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Deb822, Packages

from kselftests_py.errors import HarnessError

ARCHITECTURE = "amd64"
_RELEASES = ("bookworm", "trixie", "forky", "sid")
_DAY = 24 * 3600
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
# python3-apt's description of Debian: how an Ubuntu machine knows where a Debian mirror is.
_DEBIAN_INFO = Path("/usr/share/python-apt/templates/Debian.info")
_ABSENT = "does not have a Release file"
_VAGUE = "Some index files failed"

_CONF = """\
#clear APT::Update;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/cache/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


@dataclass(frozen=True)
class Source:
    """One archive: base URI, suites, and the value of Signed-By ("" for the machine's trusted keys)."""

    uri: str
    suites: tuple[str, ...]
    signed_by: str


def sources(cache: Path) -> list[Source]:
    """The Debian archives this machine's apt knows, each with the suites worth asking for kernels.

    *cache* is a directory for what apt computes of the machine's own index (a slim machine keeps none).
    Raises HarnessError if it knows none.
    """
    mirror = os.environ.get("KST_DEBIAN_MIRROR")
    if mirror:
        if not re.fullmatch(r"[a-z]+:\S+", mirror):
            raise HarnessError(f"KST_DEBIAN_MIRROR={mirror!r} is no URI; give the base of a Debian mirror")
        return [Source(mirror, _suites([]), _keyring())]
    found: dict[tuple[str, str], list[str]] = {}
    origins = _origins(cache)
    for line in call(["apt-get", "--print-uris", "update"]).stdout.splitlines():
        entry = re.match(r"'(?P<uri>[^']+/)dists/(?P<suite>[^']+)/InRelease'", line)
        if not entry:
            continue
        uri, suite = entry["uri"], entry["suite"]
        # Before the machine's first apt-get update the origin is not known, only the name of the suite.
        origin = origins.get((uri, suite))
        if origin.startswith("Debian") if origin else re.split("[-/]", suite)[0] in _RELEASES:
            found.setdefault((uri, _signed_by(uri, suite) or _keyring()), []).append(suite)
    if found:
        return [Source(uri, _suites(suites), signed_by) for (uri, signed_by), suites in found.items()]
    if _DEBIAN_INFO.exists():
        with _DEBIAN_INFO.open("rb") as file:
            for stanza in Deb822.iter_paragraphs(file):
                if stanza.get("Suite") == "{series}" and "BaseURI" in stanza:
                    return [Source(stanza["BaseURI"], _suites([]), _keyring())]
    raise HarnessError("this machine's apt knows no Debian mirror; set KST_DEBIAN_MIRROR to the base URI of one")


def _origins(cache: Path) -> dict[tuple[str, str], str]:
    """(base URI, suite) -> origin, of the archives whose index the machine has."""
    cache.mkdir(parents=True, exist_ok=True)
    options = [
        f"-oDir::Cache={cache}",
        "-oDir::Cache::pkgcache=pkgcache.bin",
        "-oDir::Cache::srcpkgcache=srcpkgcache.bin",
    ]
    listed = call(["apt-get", *options, "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(ORIGIN)"]).stdout
    rows = [line.split("|", 2) for line in listed.splitlines()]
    return {(uri, suite): origin for uri, suite, origin in rows if "$(" not in origin}


def _suites(named: list[str]) -> tuple[str, ...]:
    """The suites to ask of an archive whose entries in the machine's sources name the suites *named*."""
    if named and all("security" in suite for suite in named):
        more = [f"{release}-security" for release in _RELEASES[:-1]]
    else:
        more = [release + pocket for release in _RELEASES[:-1] for pocket in ("", "-updates", "-backports")]
        more += _RELEASES[-1:]
    return tuple(dict.fromkeys(named + more))


def _keyring() -> str:
    chosen = os.environ.get("KST_DEBIAN_KEYRING")
    if chosen:
        if not Path(chosen).is_file():
            raise HarnessError(f"KST_DEBIAN_KEYRING={chosen!r}: no such file; give the keyring of the Debian mirror")
        return str(Path(chosen).absolute())
    return next((f"/usr/share/keyrings/{name}" for name in _KEYRINGS if Path("/usr/share/keyrings", name).exists()), "")


def _signed_by(uri: str, suite: str) -> str:
    """Signed-By (a file or a key) of the machine's entry for *suite* at *uri*, "" if it has none."""
    told = call(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]).stdout
    places = dict(word.split("=", 1) for word in shlex.split(told))
    parts = Path(places.get("PARTS", "/nowhere"))
    for path in [Path(places.get("LIST", "/nowhere")), *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        if not path.is_file() or not os.access(path, os.R_OK):
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            for stanza in Deb822.iter_paragraphs(text.encode(), use_apt_pkg=False):
                uris = [each.rstrip("/") for each in stanza.get("URIs", "").split()]
                if uri.rstrip("/") in uris and suite in stanza.get("Suites", "").split():
                    return str(stanza.get("Signed-By", ""))
        else:
            for line in text.splitlines():
                entry = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)", line)
                if entry and (entry["uri"].rstrip("/"), entry["suite"]) == (uri.rstrip("/"), suite):
                    options: dict[str, str] = dict(
                        option.partition("=")[::2] for option in (entry["options"] or "").split()
                    )
                    return options.get("signed-by", "")
    return ""


def refresh(root: Path, progress: Callable[[str], None], *, force: bool = False) -> bool:
    """Bring the index in *root* up to date, at most once a day unless *force*; True if apt was asked.

    An index that cannot be refreshed is used as it is, and *progress* is told. Raises HarnessError when
    there is none at all. The caller holds the lock of the kernel cache.
    """
    wanted = sources(root / "machine")
    text = "\n".join(
        f"Types: deb\nURIs: {source.uri}\nSuites: {' '.join(source.suites)}\nComponents: main\nTargets: Packages\n"
        + (f"Signed-By: {source.signed_by}\n" if source.signed_by else "")
        for source in wanted
    )
    stamp, listing = root / "refreshed", root / "sources.list.d" / "debian.sources"
    same = listing.exists() and listing.read_text() == text
    age = time.time() - stamp.stat().st_mtime if stamp.exists() else None
    if same and not force and age is not None and 0 <= age < _DAY:
        return False
    for folder in ("lists/partial", "cache/archives/partial", "sources.list.d"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(_CONF.format(root=root, architecture=ARCHITECTURE))
    listing.write_text(text)
    progress("asking the Debian mirror which kernels it has")
    told = call(["apt-get", "-q", "update"], root=root)
    complaints = [line for line in told.stderr.splitlines() if line.startswith(("E:", "W:"))]
    failed = [suite for source in wanted for suite in source.suites if any(_about(line, suite) for line in complaints)]
    fresh = {suite for source in wanted for suite in source.suites} - set(failed)
    if fresh and not (told.returncode and not failed):
        stamp.touch()
        if failed:
            causes = [line for line in complaints if _ABSENT not in line and _VAGUE not in line]
            why = f" ({_plain(causes[0])})" if causes else ": not on the mirror"
            progress(f"suites skipped: {', '.join(dict.fromkeys(failed))}{why}")
        return True
    reason = reason_of(told)
    if not available(root):
        raise HarnessError(
            f"{' '.join(source.uri for source in wanted)}: no usable Debian index: {reason}; "
            "check the network, the mirror and its keyring (package debian-archive-keyring)"
        )
    progress(f"cannot refresh the Debian index ({reason}): using the one from before")
    return True


def _about(line: str, suite: str) -> bool:
    return any(part in line for part in (f"/dists/{suite}/", f" {suite} InRelease", f" {suite} Release"))


def available(root: Path) -> list[str]:
    """The suites whose index is there."""
    told = call(["apt-get", "indextargets", "--format", "$(RELEASE)|$(FILENAME)", "Created-By: Packages"], root=root)
    pairs = [line.split("|", 1) for line in told.stdout.splitlines()]
    return list(dict.fromkeys(suite for suite, path in pairs if Path(path).exists()))


def names(root: Path, prefix: str) -> list[str]:
    """Names of the packages in the index that begin with *prefix*."""
    return call(["apt-cache", "pkgnames", prefix], root=root).stdout.split()


def show(root: Path, wanted: Iterable[str]) -> list[Packages]:
    """Every version of the packages named, as the index describes them."""
    wanted = list(wanted)
    if not wanted:
        return []
    text = call(["apt-cache", "show", "--all-versions", *wanted], root=root).stdout
    return list(Packages.iter_paragraphs(text.encode(), use_apt_pkg=False))


def suites_of(root: Path, name: str, version: str) -> list[str]:
    """The suites that have *version* of the package *name*."""
    rows = [line.split("|") for line in call(["apt-cache", "madison", name], root=root).stdout.splitlines()]
    found = [row[2].split()[1].split("/")[0] for row in rows if len(row) == 3 and row[1].strip() == version]
    return list(dict.fromkeys(found))


def download(root: Path, packages: Iterable[tuple[str, str]], into: Path) -> list[Path]:
    """Fetch (name, version) pairs into the directory *into*; apt checks them against the signed index.

    Raises HarnessError with apt's reason.
    """
    wanted = [f"{name}={version}" for name, version in packages]
    told = call(["apt-get", "-q", "download", *wanted], root=root, cwd=into)
    debs = sorted(into.glob("*.deb"))
    if told.returncode or len(debs) != len(wanted):
        raise HarnessError(f"cannot fetch {wanted[0]} from the Debian mirror: {reason_of(told)}; check the network")
    return debs


def reason_of(told: subprocess.CompletedProcess[str]) -> str:
    """What apt complained of, one line: an error before a warning, one with a cause before one without."""
    lines = [line for line in told.stderr.splitlines() if line.startswith(("E:", "W:"))]
    lines.sort(key=lambda line: (_ABSENT in line or _VAGUE in line, line[0] != "E"))
    return _plain(lines[0]) if lines else f"apt ended with {told.returncode}"


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line[2:]).strip(" .")


def call(command: list[str], root: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of apt's programs, on the private *root* if one is given; it dies with this process."""
    if root:
        command = [command[0], "-c", str(root / "apt.conf"), *command[1:]]
    # apt must not outlive a killed kst: it would keep the lock of the lists.
    setpriv = shutil.which("setpriv")
    if setpriv:
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    try:
        told = subprocess.run(
            command, cwd=cwd, env=os.environ | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise HarnessError(f"{command[0]} is not on this machine; debian: kernels need apt (Debian, Ubuntu)") from None
    if told.returncode == 127 and setpriv:
        raise HarnessError("apt is not on this machine; debian: kernels need it (Debian, Ubuntu), or use image:PATH")
    return told
