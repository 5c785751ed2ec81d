"""What a suite wants of the configuration and the kernel lacks is named, before anything is booted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kselftests_py import needs
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, config
from kselftests_py.paths import data_dir
from kselftests_py.run import suite_names


def kernel(tmp_path: Path, text: str | None) -> KernelImage:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    return KernelImage("image:x", "7.3", tmp_path, None, path if text is not None else None, "d" * 64, {})


def whole(*without: str) -> str:
    """A configuration with all that any suite wants, less some."""
    table = msgspec.toml.decode((data_dir("suites") / "needs.toml").read_bytes(), type=dict[str, dict[str, str]])
    symbols = {symbol for wanted in table.values() for symbol in wanted} - set(without)
    return "".join(f"CONFIG_{symbol}={'m' if symbol == 'ZRAM' else 'y'}\n" for symbol in sorted(symbols))


def test_nothing_is_said_of_a_kernel_that_has_all(tmp_path: Path) -> None:
    assert needs.tell(kernel(tmp_path, whole()), suite_names()) == []


def test_what_is_missing_is_named_with_what_is_lost(tmp_path: Path) -> None:
    found = needs.tell(kernel(tmp_path, whole("SWAP", "GUP_TEST")), ["trapping"])
    assert found == ["7.3#ddddddd: is built without CONFIG_SWAP: tests of swapped pages are skipped"]


def test_only_the_suites_that_run_count(tmp_path: Path) -> None:
    assert needs.tell(kernel(tmp_path, whole("AIO")), ["latency"]) == []
    assert len(needs.tell(kernel(tmp_path, whole("GUP_TEST")), ["upstream"])) == 1


def test_without_userfaultfd_nothing_is_booted(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="without CONFIG_USERFAULTFD"):
        needs.tell(kernel(tmp_path, whole("USERFAULTFD")), ["idle"])


def test_a_configuration_that_is_not_known_says_nothing(tmp_path: Path) -> None:
    assert needs.tell(kernel(tmp_path, None), suite_names()) == []


def test_the_lean_flavour_has_all() -> None:
    table = msgspec.toml.decode((data_dir("suites") / "needs.toml").read_bytes(), type=dict[str, dict[str, str]])
    lean = config.read(config.flavour_files(["lean"]))
    asked = {symbol for wanted in table.values() for symbol in wanted}
    assert {symbol for symbol in asked if lean.get(symbol) != "y"} == set()
    assert set(table) == {"all", *suite_names()}
