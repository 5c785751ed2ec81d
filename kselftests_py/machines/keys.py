"""SSH keys of one run: made in memory, written for the guest, thrown away with it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_RAW = (ser.Encoding.Raw, ser.PublicFormat.Raw)


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """*key* as dropbear stores a host key: name and seed+public, each with its length (dropbear's ed25519.c)."""
    seed = key.private_bytes(ser.Encoding.Raw, ser.PrivateFormat.Raw, ser.NoEncryption())
    return b"".join(
        struct.pack(">I", len(part)) + part for part in (b"ssh-ed25519", seed + key.public_key().public_bytes(*_RAW))
    )


def _openssh(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.OpenSSH, ser.NoEncryption()).decode()


@dataclass(frozen=True)
class RunKeys:
    """The client's key, and the only host key it accepts."""

    client: paramiko.PKey
    host: paramiko.PKey

    @staticmethod
    def make(guest_dir: Path) -> RunKeys:
        """New keys; the guest's side of them is written into *guest_dir* (``hostkey``, ``authorized_keys``)."""
        client, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        public = client.public_key().public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH)
        (guest_dir / "authorized_keys").write_bytes(public + b" kst\n")
        hostkey = guest_dir / "hostkey"
        hostkey.touch(mode=0o600)
        hostkey.write_bytes(_dropbear(host))
        return RunKeys(*(paramiko.Ed25519Key.from_private_key(StringIO(_openssh(key))) for key in (client, host)))
