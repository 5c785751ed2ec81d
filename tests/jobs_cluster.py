"""A Dask scheduler and workers on this machine, as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
BOUND = 120.0  # seconds, on a busy machine


class LocalCluster:
    """Started by the commands of docs/scale.md; a context, whose end ends all."""

    address = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalCluster:
        file = self.folder / "scheduler.json"
        self._start("scheduler", ["scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)])
        deadline = time.monotonic() + BOUND
        while not self.address:
            with contextlib.suppress(OSError, ValueError):  # not there yet, half written
                self.address = json.loads(file.read_text())["address"]
            if time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(f"awaited for {BOUND:.0f} s: {file}")
            time.sleep(0.05)
        return self

    def _start(self, name: str, arguments: list[str], path: Path | None = None) -> None:
        environment = dict(os.environ, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}")
        if path is not None:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def worker(self, name: str, *, vms: int = 1, path: Path | None = None, preload: str = "") -> None:
        """Start the worker *name* with room for *vms* guests (0: it announces nothing), with *path* first on PATH; it
        imports the module *preload* first."""
        announced = ["--resources", f"VM={vms}"] if vms else []
        announced += ["--preload", preload] if preload else []
        arguments = ["worker", self.address, "--name", name, "--nthreads", "2", "--no-nanny", "--no-dashboard"]
        self._start(name, [*arguments, *announced], path)

    def await_workers(self, count: int) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=BOUND)

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
