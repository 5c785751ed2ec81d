"""A small signed Debian mirror on 127.0.0.1, with tiny kernels in the two layouts Debian has used."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import itertools
import os
import subprocess
import tarfile
import tempfile
import threading
import time
from pathlib import Path

from debian.deb822 import Deb822

SUITE = "sid"
_publications = itertools.count()
WITH_RWP = "CONFIG_USERFAULTFD=y\nCONFIG_USERFAULTFD_RWP=y\n"
WITHOUT_RWP = "CONFIG_USERFAULTFD=y\n# CONFIG_USERFAULTFD_RWP is not set\n"


def bzimage(release: str, *, payload: bytes = b"code" * 512) -> bytes:
    """A file that has the header of a bzImage and nothing to boot."""
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x1F4:0x1F8] = (len(payload) // 16).to_bytes(4, "little")
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    banner = release.encode() + b" (somebody@somewhere) #1 SMP\0"
    image[0x300 : 0x300 + len(banner)] = banner
    return bytes(image) + payload


def kernel_files(release: str, config: str, *, old_layout: bool = False) -> dict[str, dict[str, bytes]]:
    """The packages of one kernel: name -> path in the package -> contents."""
    folder = f"usr/lib/modules/{release}"
    modules = {f"{folder}/kernel/net/9p.ko": b"9p of " + release.encode(), f"{folder}/modules.order": b"9p\n"}
    if old_layout:
        boot = {f"boot/vmlinuz-{release}": bzimage(release), f"boot/config-{release}": config.encode()}
        return {f"linux-image-{release}": modules | boot}
    return {
        f"linux-image-{release}": {f"usr/share/doc/linux-image-{release}/copyright": b"GPL-2\n"},
        f"linux-base-{release}": {f"{folder}/config": config.encode(), f"{folder}/modules.order": b"9p\n"},
        f"linux-binary-{release}": {f"{folder}/vmlinuz": bzimage(release)},
        f"linux-modules-{release}": {f"{folder}/kernel/net/9p.ko": b"9p of " + release.encode()},
    }


class Key:
    """A throw-away signing key."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.chmod(0o700)
        self._gpg("--passphrase", "", "--quick-generate-key", "mirror@test", "ed25519", "sign")
        self.keyring = home / "mirror.gpg"
        self._gpg("--output", str(self.keyring), "--export")

    def sign(self, release: Path) -> None:
        inline = release.with_name("InRelease")
        inline.unlink(missing_ok=True)
        self._gpg("--output", str(inline), "--clearsign", str(release))

    def end(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "gpg-agent"], check=False)

    def _gpg(self, *arguments: str) -> None:
        subprocess.run(["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments], check=True)


class Archive:
    """The files of a mirror, in *folder*."""

    def __init__(self, folder: Path, key: Key) -> None:
        self.folder, self.key = folder, key

    def add(self, release: str, version: str, *, config: str = WITHOUT_RWP, old_layout: bool = False) -> None:
        """Put one kernel on the mirror."""
        packages = kernel_files(release, config, old_layout=old_layout)
        for name, files in packages.items():
            depends = [f"{other} (= {version})" for other in packages if other != name]
            self._deb(name, version, depends if name.startswith("linux-image") else [], files)
        self.publish()

    def add_source(self, series: str, version: str, tree: Path, folder: str = "usr/src") -> None:
        """Put the source of *series* on the mirror: *tree* in a tarball in *folder*; Debian's is in usr/src."""
        name = f"linux-source-{series}"
        tarball = io.BytesIO()
        with tarfile.open(fileobj=tarball, mode="w:xz", preset=0) as archive:
            archive.add(tree, name)
        self._deb(name, version, [], {f"{folder}/{name}.tar.xz": tarball.getvalue()})
        self.publish()

    def _deb(self, name: str, version: str, depends: list[str], files: dict[str, bytes]) -> None:
        control = Deb822({"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "t <t@t>"})
        if depends:
            control["Depends"] = ", ".join(depends)
        control["Description"] = "test"
        (self.folder / "pool").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            contents = dict(files)
            contents["DEBIAN/control"] = control.dump().encode()
            for path, data in contents.items():
                place = Path(temporary, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            Path(temporary).chmod(0o755)
            deb = self.folder / "pool" / f"{name}_{version}_amd64.deb"
            subprocess.run(
                ["dpkg-deb", "--root-owner-group", "-Znone", "-b", temporary, str(deb)],
                check=True,
                capture_output=True,
            )

    def publish(self) -> None:
        """Write the index over what is in the pool, and sign it."""
        stanzas = []
        for deb in sorted(self.folder.glob("pool/*.deb")):
            told = subprocess.run(["dpkg-deb", "-f", str(deb)], check=True, capture_output=True)
            control = Deb822(told.stdout)
            control["Filename"] = f"pool/{deb.name}"
            control["Size"] = str(deb.stat().st_size)
            control["SHA256"] = hashlib.sha256(deb.read_bytes()).hexdigest()
            stanzas.append(control.dump())
        packages = gzip.compress("\n".join(stanzas).encode())
        suite = self.folder / "dists" / SUITE
        index = suite / "main/binary-amd64/Packages.gz"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_bytes(packages)
        plain = "\n".join(stanzas).encode()
        sums = [(plain, "main/binary-amd64/Packages"), (packages, "main/binary-amd64/Packages.gz")]
        lines = "".join(f"\n {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for data, name in sums)
        release = suite / "Release"
        release.write_text(
            f"Origin: Debian\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nComponents: main\n"
            f"Date: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:{lines}\n"
        )
        self.key.sign(release)
        # Times of files on a mirror are of whole seconds: without this, two publications in one would look the same.
        published = time.time() - 10_000 + 10 * next(_publications)
        os.utime(suite / "InRelease", (published, published))

    def remove(self, release: str) -> None:
        for deb in self.folder.glob(f"pool/*-{release}_*.deb"):
            deb.unlink()
        self.publish()


class Mirror(Archive):
    """The mirror: ``mode`` is "serve", "rubbish" (answers all with a page) or "stall" (a .deb never ends)."""

    def __init__(self, folder: Path, key: Key) -> None:
        super().__init__(folder, key)
        self.mode = "serve"
        self.asked: list[str] = []
        self.stalled = threading.Event()
        self.released = threading.Event()
        mirror = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                if mirror.mode == "rubbish":
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b"<html>Please log in to this network</html>")
                elif mirror.mode == "stall" and self.path.endswith(".deb"):
                    self.send_response(200)
                    # As long as the index says, or apt ends at once.
                    self.send_header("Content-Length", str(Path(self.translate_path(self.path)).stat().st_size))
                    self.end_headers()
                    self.wfile.write(b"!<arch>\n")
                    self.wfile.flush()
                    mirror.stalled.set()
                    mirror.released.wait(60)
                else:
                    super().do_GET()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def debs_asked(self) -> list[str]:
        """The .deb files asked for so far, in order."""
        return [path for path in self.asked if path.endswith(".deb")]

    def stop(self) -> None:
        """Go off the network."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
