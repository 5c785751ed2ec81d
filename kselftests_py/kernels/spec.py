"""What the user writes for a kernel, read into one of three plain values."""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from kselftests_py.errors import UsageError

FORMS = (
    "debian:SERIES (as debian:7.3), debian:newest, debian:VERSION, "
    "image:PATH[,modules=DIR][,config=FILE][,source=SPEC], cached:DIGEST, host, ssh:[USER@]HOST[:PORT], "
    "source:SERIES or tree:DIR or git:DIR[@REV], with any of +series:PATH, +series:msgid:ID, +config:FILE, +FLAVOUR"
)
_KINDS = ("debian", "image", "cached", "host", "ssh", "source", "tree", "git")
FLAVOURS = ("lean", "debug", "kasan", "kcsan", "twin", "allmm")
"""Fragments of the configuration, in the order in which they are laid over each other; ``lean`` is always the first."""

# A "+" may be part of a path: only these begin a part.
_PART = re.compile(rf"\+(?=(?:{'|'.join(FLAVOURS)})(?:\+|$)|series:|config:)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SSH = re.compile(r"(?:(?P<user>[^@]*)@)?(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:@\[\]]*))(?::(?P<port>.*))?")


@dataclass(frozen=True)
class DebianSpec:
    """A kernel of Debian: ``want`` is a series ("7.3"), "newest", a version or a release."""

    spec: str
    want: str


@dataclass(frozen=True)
class ImageSpec:
    """A kernel in files of the user's own; nothing is known of the paths yet."""

    spec: str
    vmlinuz: Path
    modules: Path | None
    config: Path | None
    source: str = ""
    """Spec of the source that it was built from, for what needs it: the kernel's own selftests."""


@dataclass(frozen=True)
class CachedSpec:
    """A kernel of the cache: ``digest`` is the beginning of its digest, at least 7 digits."""

    spec: str
    digest: str


@dataclass(frozen=True)
class BuildSpec:
    """A kernel to be built: ``kind`` "source" (``want`` is Debian's series), "tree" or "git" (a directory).

    ``revision`` is git's. ``series`` are paths, or "msgid:ID", applied in the order given; ``configs`` the
    user's fragments, laid over those of ``flavours``, which always begin with "lean".
    """

    spec: str
    kind: str
    want: str
    revision: str = "HEAD"
    series: tuple[str, ...] = ()
    configs: tuple[Path, ...] = ()
    flavours: tuple[str, ...] = FLAVOURS[:1]

    @property
    def flavour(self) -> str:
        """What the kernel calls itself: "lean", or the other flavours."""
        return "-".join(self.flavours[1:]) or self.flavours[0]


@dataclass(frozen=True)
class RunningKernel:
    """A kernel that runs already: ``kind`` "host" (this machine) or "ssh" (user, host and port say where).

    ``user`` is None when SSH's own choice of user is to be taken.
    """

    spec: str
    kind: str
    user: str | None = None
    host: str = ""
    port: int = 22

    @property
    def label(self) -> str:
        """Short name for reports: "host", or the remote machine's name."""
        return self.host or self.kind


def parse(spec: str) -> DebianSpec | ImageSpec | CachedSpec | BuildSpec | RunningKernel:
    """Read *spec*; raises UsageError naming the accepted forms."""
    if any(not letter.isprintable() for letter in spec):
        raise UsageError(f"kernel {spec!r}: has a character that cannot be printed; accepted: {FORMS}")
    kind, colon, rest = spec.partition(":")
    if kind == "host" and not colon:
        return RunningKernel(spec, "host")
    if kind == "debian" and rest:
        if not re.fullmatch(r"[A-Za-z0-9.+~:-]+", rest):
            raise UsageError(f"kernel {spec!r}: {rest!r} cannot be a version; write as debian:7.3 or debian:newest")
        return DebianSpec(spec, rest)
    if kind == "image" and rest:
        return _image(spec, rest)
    if kind == "cached" and rest:
        if not re.fullmatch(r"[0-9a-f]{7,64}", rest):
            raise UsageError(f"kernel {spec!r}: {rest!r} is no digest of at least 7 digits; kst kernels shows them")
        return CachedSpec(spec, rest)
    if kind == "ssh" and rest:
        return _ssh(spec, rest)
    if kind in ("source", "tree", "git") and rest:
        return _build(spec, kind, rest)
    close = difflib.get_close_matches(kind, _KINDS, n=1, cutoff=0.5)
    if kind in _KINDS or not close:
        hint = ""
        if re.fullmatch(r"\d+(\.\d+)*", spec):
            hint = f" (did you mean debian:{spec}?)"
        elif Path(spec).exists():
            hint = f" (did you mean {'tree' if Path(spec).is_dir() else 'image'}:{spec}?)"
    else:
        hint = f" (did you mean {close[0] + colon + rest}?)"
    raise UsageError(f"kernel {spec!r} is of no known form{hint}; accepted: {FORMS}")


def _image(spec: str, rest: str) -> ImageSpec:
    # A comma may be part of a file name: only ",modules=", ",config=" and ",source=" end one.
    first, *options = re.split(r",(?=(?:modules|config|source)=)", rest)
    given = dict(option.split("=", 1) for option in options)
    stray = re.search(r",([A-Za-z]+)=", first)
    if stray and not Path(first).expanduser().exists():
        close = difflib.get_close_matches(stray[1], ("modules", "config", "source"), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(
            f"kernel {spec!r}: unknown option {stray[1]!r}{hint}; known: modules=DIR, config=FILE, source=SPEC"
        )
    if len(given) < len(options) or not first or not all(given.values()):
        raise UsageError(f"kernel {spec!r}: each of PATH, modules=DIR, config=FILE wants one path; accepted: {FORMS}")
    source = given.pop("source", "")
    if source and not isinstance(parse(source), BuildSpec):
        raise UsageError(f"kernel {spec!r}: source={source} is no source; give source:, tree: or git:")
    paths = {name: Path(value).expanduser().absolute() for name, value in given.items()}
    return ImageSpec(spec, Path(first).expanduser().absolute(), paths.get("modules"), paths.get("config"), source)


def _build(spec: str, kind: str, rest: str) -> BuildSpec:
    want, *parts = _PART.split(rest)
    stray = re.search(r"\+([a-z]+)(?::.*)?$", want)
    if stray and (kind == "source" or not Path(want).expanduser().exists()):
        close = difflib.get_close_matches(stray[1], (*FLAVOURS, "series", "config"), n=1)
        if close or kind == "source":
            hint = f" (did you mean +{close[0]}?)" if close else ""
            known = ", ".join(f"+{name}" for name in FLAVOURS)
            raise UsageError(f"kernel {spec!r}: unknown part +{stray[1]}{hint}; known: {known}, +series:, +config:")
    series: list[str] = []
    configs: list[Path] = []
    flavours = {FLAVOURS[0]}
    for part in parts:
        name, colon, value = part.partition(":")
        if colon and not value.removeprefix("msgid:"):
            raise UsageError(f"kernel {spec!r}: +{part} names nothing; write +{name}:PATH")
        if name == "series":
            series.append(value if value.startswith("msgid:") else str(Path(value).expanduser().absolute()))
        elif name == "config":
            configs.append(Path(value).expanduser().absolute())
        else:
            flavours.add(name)
    if {"kasan", "kcsan"} <= flavours:
        raise UsageError(f"kernel {spec!r}: a kernel has kasan or kcsan, not both; name one")
    revision = "HEAD"
    if kind == "source":
        if not re.fullmatch(r"\d+(\.\d+)*", want):
            raise UsageError(f"kernel {spec!r}: {want!r} is no series of kernels; write as source:7.3")
    else:
        if kind == "git":
            want, revision = _folder_and_revision(want)
            if revision.startswith("-"):
                raise UsageError(f"kernel {spec!r}: {revision!r} is no revision; write git:DIR@REV")
        want = str(Path(want).expanduser().absolute())
    ordered = tuple(name for name in FLAVOURS if name in flavours)
    return BuildSpec(spec, kind, want, revision, tuple(series), tuple(configs), ordered)


def _folder_and_revision(want: str) -> tuple[str, str]:
    """Where the revision begins: behind the longest directory there is, as both may have an "@" in them ("job@2" of
    Jenkins, "topic@home"); else at the first one that is no part of "@{"."""
    at = [match.start() for match in re.finditer(r"(?<=.)@(?=[^{])", want)]
    ends = [len(want), *reversed(at)]
    end = next((each for each in ends if Path(want[:each]).expanduser().is_dir()), at[0] if at else len(want))
    return want[:end], want[end + 1 :] or "HEAD"


def _ssh(spec: str, rest: str) -> RunningKernel:
    def wrong(what: str) -> UsageError:
        return UsageError(f"kernel {spec!r}: {what}; write ssh:USER@HOST[:PORT], an IPv6 address in brackets")

    parts = _SSH.fullmatch(rest)
    if not parts:
        raise wrong("cannot tell user, host and port apart")
    user, host, port = parts["user"], parts["host"] or "", parts["port"]
    if user is not None and not _NAME.fullmatch(user):
        raise wrong(f"{user!r} is no user name")
    if parts["ipv6"] is not None:
        host = parts["ipv6"]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise wrong(f"{host!r} is no IPv6 address") from None
    elif not _NAME.fullmatch(host):
        raise wrong(f"{host!r} is no host name")
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise wrong(f"{port!r} is no port (1 to 65535)")
    return RunningKernel(spec, "ssh", user, host, int(port or 22))
