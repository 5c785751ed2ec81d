"""The probe in this process: the cffi front end, as a channel."""

from __future__ import annotations

import importlib.util
from typing import Any

from kselftests_py.errors import HarnessError
from kselftests_py.lab.build import native_module
from kselftests_py.lab.channel import MAX_REPLY, ChannelGarbage, ChannelLost


def _load() -> Any:
    path = native_module()
    spec = importlib.util.spec_from_file_location("_kst_native", path)
    if spec is None or spec.loader is None:
        raise HarnessError(f"{path} is not a Python extension module of this interpreter")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NativeChannel:
    """Requests go straight into the library; subjects are forked from this process, and bounded by the library."""

    def __init__(self) -> None:
        module = _load()
        self._ffi, self._lib = module.ffi, module.lib
        self._agent = self._lib.kst_agent_new()

    def call(self, line: bytes, timeout: float) -> bytes:  # the library bounds its subjects itself
        if self._agent is None:
            raise ChannelLost("the probe in this process was closed")
        reply = self._lib.kst_agent_handle(self._agent, line, len(line))
        if reply == self._ffi.NULL:
            raise ChannelGarbage("the probe in this process gave no reply")
        try:
            return bytes(self._ffi.string(reply, MAX_REPLY))
        finally:
            self._lib.free(reply)

    def close(self) -> None:
        if self._agent is not None:
            self._lib.kst_agent_free(self._agent)
            self._agent = None
