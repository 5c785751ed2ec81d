"""``kst explore``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.cli.run import checked_memory
from kselftests_py.errors import HarnessError
from kselftests_py.explore import keep, kept
from kselftests_py.explore.claims import Replay
from kselftests_py.explore.explorer import Explorer, Found
from kselftests_py.explore.ground import Ground, Note
from kselftests_py.explore.replay import replay
from kselftests_py.explore.words import claim_in_words, in_words
from kselftests_py.pytest_plugin.station import Settings
from kselftests_py.reports.text import one_line
from kselftests_py.results import RunFolder


@click.command("explore", epilog=EPILOG)
@click.option("--kernel", "spec", metavar="SPEC", default="debian:7.3", show_default=True, help="As for kst run.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True, max=10_000), default=5, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 62) - 1), metavar="S", help="Same seed, same sequences. Default: a new one."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Must be new or empty. Default: kst-runs/<time>."
)
@click.option(
    "--replay", "file", type=click.Path(path_type=Path), metavar="FILE", help="Run the sequence of FILE again."
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first contradiction.")
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True)
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="vCPUs of a guest.")
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of a guest, as vng takes it.")
@click.option("--control", metavar="NAME", hidden=True, help="The probe lies in this way (docs/probe-protocol.md).")
@one_line_errors
def explore_command(
    spec: str,
    minutes: float,
    seed: int | None,
    out: Path | None,
    file: Path | None,
    fail_fast: bool,
    accel: str,
    cpus: int,
    memory: str,
    control: str | None,
) -> None:
    """Search a kernel for what contradicts userfaultfd's documentation, by random sequences of operations.

    A model of the documentation judges every step. What contradicts it is shrunk, tried again on a fresh boot, and
    written to DIR as a sequence in words, a C program, the draft of a finding, and a file for --replay. Ends with 0
    if nothing was found, with 1 if something was (docs/explore.md).
    """
    given = None if file is None else kept.read(file)
    console = Console(highlight=False, markup=False, soft_wrap=True)

    def note(text: str) -> None:
        console.print(one_line(text, 2000))

    seed = secrets.randbelow(1 << 32) if seed is None else seed
    options = {"command": "explore", "kernel": spec, "seed": str(seed), "minutes": f"{minutes:g}"}
    settings = Settings(accel, cpus, checked_memory(memory))
    folder = RunFolder.create(out)
    ground = Ground(spec, folder, settings, note, options, None if given else seed)
    complete = False
    try:
        if given is not None:
            code = _replay(ground, given, str(file), note, control)
        else:
            code = _explore(ground, seed, minutes, note, control, fail_fast=fail_fast)
        complete = True
    finally:
        ground.close(complete=complete)
    sys.exit(code)


def _replay(ground: Ground, given: Replay, name: str, note: Note, control: str | None) -> int:
    offer = ground.offer()
    explorer = Explorer(ground, offer, seed=0, note=note, found=lambda found: None, control=control)
    assert ground.target.capabilities is not None
    outcome = replay(explorer, given, ground.target.capabilities, name)
    for line in in_words(given.sequence):
        note(line)
    note(f"{ground.label}: {outcome.text}.")
    return 0 if outcome.claim is None else 1


def _explore(ground: Ground, seed: int, minutes: float, note: Note, control: str | None, *, fail_fast: bool) -> int:
    offer = ground.offer()
    for line in offer.skipped:
        note(f"not tried: {line}")
    if not offer.modes:
        raise HarnessError(f"{ground.label}: neither RWP nor write protection can be had: nothing was explored")
    note(f"{ground.label}: {' and '.join(offer.modes)} on {', '.join(offer.kinds)}; seed {seed}, {minutes:g} minutes")
    found_so_far: list[Found] = []

    def found(one: Found) -> None:
        found_so_far.append(one)
        place = keep.write(ground.folder, len(found_so_far), one, ground.label)
        seen = "seen again on a fresh boot" if ground.boots else "seen again"
        note(f"{claim_in_words(one.sequence, one.claim)} ({seen if one.confirmed else 'not seen again'}): {place}")

    explorer = Explorer(ground, offer, seed=seed, note=note, found=found, control=control)
    try:
        explorer.explore(minutes * 60, fail_fast=fail_fast)
    finally:
        _summary(ground.folder, seed, explorer, found_so_far)
        known = "".join(f"; {name} {times} times" for name, times in sorted(explorer.count.known.items()))
        again = f"; {explorer.count.again} more of what was found" if explorer.count.again else ""
        note(f"{explorer.count}{known}{again}")
    if not explorer.count.sequences:
        raise HarnessError(f"{ground.label}: the time was up before one sequence was tried: give more --minutes")
    sure = [one for one in found_so_far if one.confirmed]
    word = "1 contradiction" if len(sure) == 1 else f"{len(sure) or 'no'} contradictions"
    note(f"{'FAIL' if sure else 'PASS'}: {word} in {ground.folder}")
    return 1 if sure else 0


def _summary(folder: Path, seed: int, explorer: Explorer, found: list[Found]) -> None:
    count = explorer.count
    told = {
        "seed": seed,
        "sequences": count.sequences,
        "operations": count.operations,
        "seconds": round(count.seconds, 1),
        "known": dict(count.known),
        "again": count.again,
        "found": [{"confirmed": one.confirmed, "claim": msgspec.to_builtins(one.claim)} for one in found],
    }
    try:
        (folder / "explore.json").write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    except OSError as error:
        raise HarnessError(f"{folder}/explore.json: {error.strerror}") from None
