"""SSH: the connection to a guest or a remote host, the probe's channel over it, and the remote host as a machine."""

from __future__ import annotations

import hashlib
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import paramiko

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import RunningKernel
from kselftests_py.lab.channel import Channel, ChannelGarbage, ChannelLost, ChannelTimeout
from kselftests_py.machines.machine import LEFT, Enough, Loss, MachineInfo, MachineLost
from kselftests_py.machines.stream import StreamChannel

_MAX_OUTPUT = 65_536
# paramiko logs a traceback for each refused connection; what matters comes back as an exception.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class SshConnection:
    """One authenticated SSH connection; only the given host key is accepted when there is one."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    @staticmethod
    def open(port: int, client: paramiko.PKey, host_key: paramiko.PKey, timeout: float) -> SshConnection:
        """Connect to 127.0.0.1:*port* as root; :raises OSError, paramiko.SSHException, EOFError: not there (yet)."""
        sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each request waits for its reply
        transport = paramiko.Transport(sock)
        try:
            transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = timeout
            transport.start_client(timeout=timeout)
            if transport.get_remote_server_key() != host_key:
                raise HarnessError(f"127.0.0.1:{port} answered with a host key that is not this run's guest")
            transport.auth_publickey("root", client)
        except BaseException:
            transport.close()
            raise
        return SshConnection(transport)

    def run(
        self,
        command: str,
        timeout: float,
        stdin: bytes = b"",
        *,
        quiet: float | None = None,
        until: Enough | None = None,
    ) -> tuple[int, str]:
        """Exit code and bounded output of a shell command, as :meth:`Machine.run`.

        :raises ChannelTimeout: it has not ended in time, or has said nothing for *quiet* seconds. :raises ChannelLost:
        """
        session = self._session(timeout)
        session.set_combine_stderr(True)
        deadline = time.monotonic() + timeout
        output = b""
        silent = False
        try:
            session.exec_command(command)
            session.sendall(stdin)
            session.shutdown_write()
            while True:
                left = max(0.001, deadline - time.monotonic())
                silent = quiet is not None and quiet < left
                session.settimeout(quiet if silent else left)
                got = session.recv(65_536)
                if not got:
                    break
                output = (output + got)[:_MAX_OUTPUT]  # the rest is read and dropped, so that the command can end
                if until is not None and until(output):
                    return LEFT, output.decode("utf-8", "replace")
            if not session.status_event.wait(max(0.001, deadline - time.monotonic())):
                raise TimeoutError
            return session.exit_status, output.decode("utf-8", "replace")
        except TimeoutError:
            awaited = (
                f"word of '{command}' for {quiet:.0f} s" if silent else f"end of '{command}' within {timeout:.0f} s"
            )
            raise ChannelTimeout(f"no {awaited}", output) from None
        except (OSError, paramiko.SSHException) as error:
            raise ChannelLost(f"'{command}' broke off: {error}", output) from None
        finally:
            session.close()

    def agent(self, command: str, timeout: float) -> StreamChannel:
        """Start the probe and give its channel."""
        session = self._session(timeout)
        session.exec_command(command)

        def last_words() -> str:
            stderr = session.recv_stderr(500) if session.recv_stderr_ready() else b""
            return f" (stderr: {stderr[:200]!r})" if stderr else ""

        return StreamChannel(session, last_words)

    def _session(self, timeout: float) -> paramiko.Channel:
        try:
            return self._transport.open_session(timeout=timeout)
        except (OSError, paramiko.SSHException, EOFError) as error:
            raise ChannelLost(f"no SSH session: {error}") from None

    def alive(self) -> bool:
        return bool(self._transport.is_active())

    def close(self) -> None:
        self._transport.close()


class SshHost:
    """A running machine that is not ours: the probe is copied to it and run, nothing else is changed."""

    def __init__(self, kernel: RunningKernel, agent: Path, connect_timeout: float = 20) -> None:
        self._kernel, self._agent, self._timeout = kernel, agent, connect_timeout
        self._client: paramiko.SSHClient | None = None
        self._connection: SshConnection | None = None
        self._channel: StreamChannel | None = None

    def start(self) -> MachineInfo:
        began = time.monotonic()
        where = (
            f"ssh:{self._kernel.user or ''}{'@' if self._kernel.user else ''}{self._kernel.host}:{self._kernel.port}"
        )
        client = paramiko.SSHClient()
        client.load_system_host_keys()
        try:
            client.connect(
                self._kernel.host or "",
                port=self._kernel.port or 22,
                username=self._kernel.user,
                timeout=self._timeout,
                banner_timeout=self._timeout,
                auth_timeout=self._timeout,
            )
        except (OSError, paramiko.SSHException) as error:
            client.close()
            raise HarnessError(f"{where}: no SSH connection ({error}); does 'ssh {where[4:]} true' work?") from None
        transport = client.get_transport()
        assert transport is not None  # connect() succeeded
        self._client, self._connection = client, SshConnection(transport)
        self._channel = self._connection.agent(f"exec {self.put(self._agent)}", self._timeout)
        return MachineInfo("none", f"{where} is a running machine", boot_s=time.monotonic() - began)

    def put(self, file: Path) -> str:
        """Path of *file* on the host, in the user's own cache; copied only when this very one is not there."""
        assert self._connection is not None
        body = file.read_bytes()
        folder, name = "$HOME/.cache/kst", f"{file.name}-{hashlib.sha256(body).hexdigest()[:16]}"
        code, size = self._connection.run(f'wc -c < "{folder}/{name}"', self._timeout)
        if code != 0 or size.strip() != str(len(body)):
            part = f"{name}.{time.monotonic_ns()}"
            command = f'mkdir -p "{folder}" && cd "{folder}" && cat > {part} && chmod 755 {part} && mv {part} {name}'
            code, output = self._connection.run(command, 120, body)
            if code != 0:
                raise HarnessError(f"{self._kernel.spec}: cannot copy {file.name} there: {output.strip()[:200]}")
        return f'"{folder}/{name}"'

    def channel(self) -> Channel:
        assert self._channel is not None, "start() comes first"
        return self._channel

    def run(
        self, command: str, timeout: float, *, quiet: float | None = None, until: Enough | None = None
    ) -> tuple[int, str]:
        assert self._connection is not None, "start() comes first"
        return self._connection.run(command, timeout, quiet=quiet, until=until)

    def diagnose(self, error: Exception) -> MachineLost:
        if isinstance(error, ChannelGarbage):
            return MachineLost(Loss.GARBAGE, str(error))
        alive = self._connection is not None and self._connection.alive()
        loss = Loss.HANG if isinstance(error, ChannelTimeout) and alive else Loss.LOST
        return MachineLost(loss, f"{self._kernel.spec}: {error}")

    def stop(self) -> None:
        closers: list[Callable[[], None]] = [one.close for one in (self._channel, self._client) if one is not None]
        for close in closers:
            close()
        self._client = self._connection = self._channel = None
