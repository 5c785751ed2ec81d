"""What is compared is labelled as what it is (twin, builds, releases), and what it is compared with by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import results_factory as factory
from click.testing import CliRunner
from results_factory import NEW, OLD, record

from kselftests_py import cli, compare
from kselftests_py.errors import UsageError
from kselftests_py.kernels import KernelImage
from kselftests_py.pytest_plugin import session
from kselftests_py.reports import html, junit
from kselftests_py.results import Manifest, Metric, Outcome
from kselftests_py.results.relation import relation

BUILT = {"tree": "5b1b", "compiler": "gcc 12", "flavour": "lean", "config": "sha256:1"}
RELEASE = {"version": "7.3.4-1", "linux-image": "7.3.4-1 sha256:2"}
RWP = ["USERFAULTFD_RWP"]


def manifest(head: dict[str, str], base: dict[str, str], symbols: list[str], **fields: Any) -> Manifest:
    made = factory.manifest(config_differences=symbols)
    for entry, provenance in zip(made.kernels, (head, base), strict=True):
        entry.provenance = provenance
        for name, value in fields.items():
            setattr(entry, name, value)
    return made


@pytest.mark.parametrize(
    ("head", "base", "symbols", "told"),
    [
        (BUILT, BUILT | {"flavour": "twin"}, RWP, f"{OLD} is the wp-only twin of {NEW}: one source"),
        (BUILT | {"flavour": "debug-twin"}, BUILT | {"flavour": "debug"}, RWP, f"{NEW} is the wp-only twin of {OLD}"),
        (BUILT, BUILT | {"flavour": "twin"}, [*RWP, "KSM"], "two builds: other configuration, the same source and"),
        (BUILT | {"tree": "9"}, BUILT | {"flavour": "twin"}, RWP, "two builds: other source and configuration, the"),
        (BUILT, BUILT | {"series": "sha256:3"}, [], "two builds: other source, the same compiler and configuration"),
        (BUILT, BUILT | {"compiler": "clang"}, [], "two builds: other compiler, the same source and configuration"),
        (BUILT, BUILT, [], "two builds of one source with one compiler and one configuration"),
        (RELEASE, RELEASE | {"version": "7.2.13-1"}, ["KSM"], "release against release: configuration and compiler"),
        (BUILT, RELEASE, ["KSM"], "two kernels of different origin"),
        ({"vmlinuz": "/a"}, {"vmlinuz": "/b"}, [], "two kernels of different origin"),
    ],
)
def test_each_relation(head: dict[str, str], base: dict[str, str], symbols: list[str], told: str) -> None:
    assert relation(manifest(head, base, symbols)).startswith(told)


def test_what_is_not_known_is_not_claimed() -> None:
    assert relation(manifest(BUILT, BUILT, [], digest="")).startswith("a running kernel is compared")
    assert relation(manifest(BUILT, BUILT, [], digest="a" * 64)).startswith("one kernel beside itself")
    assert relation(manifest({}, {}, [], digest="", spec="host")).startswith("one kernel beside itself")
    alone = factory.manifest()
    alone.kernels = alone.kernels[:1]
    assert relation(alone) == ""


def test_every_report_has_the_label(tmp_path: Path) -> None:
    labels = {"path": "scan", "protection": "wp", "kind": "anon"}
    metric = Metric(name="scan_per_page", value=1, unit="instructions", mode="exact", labels=labels)
    records = [
        record(id="latency/x", suite="latency", kernel=kernel, outcome=Outcome.DONE, metrics=[metric])
        for kernel in (OLD, NEW)
    ]
    folder = factory.run_folder(tmp_path / "run", records, manifest(BUILT, BUILT | {"flavour": "twin"}, RWP))
    found = compare.between(folder, 0)
    assert "the wp-only twin of" in found.relation
    assert found.configs == RWP
    page = html.write(folder).read_text()
    assert f"<p>{found.relation}; the configurations differ in 1 symbol (USERFAULTFD_RWP).</p>" in page
    assert junit.write(folder).read_text().count(f'name="compared" value="{found.relation}"') == 1


def kernel(tmp_path: Path, spec: str, text: str | None) -> KernelImage:
    config = tmp_path / spec.replace(":", "-")
    if text is not None:
        config.write_text(text)
    path = None if text is None else config
    return KernelImage(spec, "7.3.4", Path("vmlinuz"), None, path, spec.encode().hex() * 8, {})


@pytest.mark.parametrize(
    ("old", "differing"),
    [("CONFIG_A=y\n", ["B"]), ("CONFIG_A=m\nCONFIG_B=y\n", ["A"]), (None, [])],
)
def test_the_manifest_names_the_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None, differing: list[str]
) -> None:
    """Where one configuration is not known, nothing is said to differ."""
    made = {
        spec: kernel(tmp_path, spec, text) for spec, text in (("image:1", "CONFIG_A=y\nCONFIG_B=y\n"), ("tree:2", old))
    }
    monkeypatch.setattr(session, "resolve", lambda spec, _note: made[spec])
    folder = factory.run_folder(tmp_path / "run", [])
    both = session.targets(["image:1"], ["tree:2"], session.Silent())
    run = session.begin(folder, both, session.Settings(), session.Silent(), {}, controls=False)
    assert run.manifest.config_differences == differing == folder.manifest().config_differences


@pytest.mark.parametrize(
    ("spec", "baseline"),
    [
        ("source:7.3", "source:7.3+twin"),
        ("tree:/a+series:/b+debug", "tree:/a+series:/b+debug+twin"),
        ("debian:7.3", "debian:7.2"),
        ("cached:0123456", "debian:7.2"),
    ],
)
def test_without_a_baseline_a_build_meets_its_twin_and_a_release_a_release(
    monkeypatch: pytest.MonkeyPatch, spec: str, baseline: str
) -> None:
    wp_only = KernelImage("debian:7.2", "7.2.13", Path("vmlinuz"), None, None, "a" * 64, {})
    monkeypatch.setattr(compare, "newest_without_rwp", lambda _note: (wp_only, ""))
    assert compare.usual_baseline(spec, print) == baseline


@pytest.mark.parametrize("spec", ["source:7.3+twin", "host", "ssh:root@a"])
def test_what_has_no_usual_baseline_wants_one_named(spec: str) -> None:
    with pytest.raises(UsageError, match="name a BASELINE"):
        compare.usual_baseline(spec, print)
    told = CliRunner().invoke(cli.main, ["compare", spec])
    assert (told.exit_code, told.output.count("\n")) == (2, 1), told.output
