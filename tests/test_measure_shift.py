"""What is said of two sides' replicates: on made-up figures with fixed seeds, against what is known of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kselftests_py.measure import mean, tails
from kselftests_py.measure.shift import CANNOT_TELL, FASTER, SAME, SLOWER, Shift, adjusted, shift

MARGIN = 0.03


def boots(seed: int, count: int, centre: float = 1000.0, noise: float = 0.01) -> list[float]:
    """Skewed, as times are."""
    found: list[float] = (centre * np.random.default_rng(seed).lognormal(0, noise, count)).tolist()
    return found


def judge(base: list[float], head: list[float]) -> str:
    """The verdict on one path alone: there is nothing to correct p for."""
    found = shift(base, head)
    return found.verdict(MARGIN, found.p)


@pytest.mark.parametrize(
    ("head", "more", "p"),
    [
        ([11.0, 12.0, 13.0, 14.0, 15.0], 10.0, 2 / 252),  # all above: one order of 252 and its mirror
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.0, 1.0),
        ([1.5, 2.5, 3.5, 4.5, 5.5], 0.5, 174 / 252),  # R: wilcox.test(c(1.5,2.5,3.5,4.5,5.5), 1:5), p = 0.6905
    ],
)
def test_estimate_and_rank_test_are_the_textbooks(head: list[float], more: float, p: float) -> None:
    found = shift([1.0, 2.0, 3.0, 4.0, 5.0], head)
    assert found.more == more
    assert found.p == pytest.approx(p, abs=5e-4)
    assert found.low <= more <= found.high


def test_one_broken_boot_moves_the_estimate_little() -> None:
    clean, broken = boots(1, 9), [*boots(2, 8), 1e6]
    assert abs(shift(clean, broken).more) < 30


@settings(max_examples=20)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=7), st.lists(st.integers(1, 10**6), min_size=1, max_size=7))
def test_exchanged_sides_are_the_same_shift_backwards(base: list[int], head: list[int]) -> None:
    there, back = shift(base, head), shift(head, base)
    assert there.more == -back.more
    assert there.low <= there.high


def test_the_same_figures_give_the_same_answer() -> None:
    assert shift(boots(1, 8), boots(2, 8)) == shift(boots(1, 8), boots(2, 8))


@pytest.mark.parametrize(
    ("low", "high", "p", "count", "verdict"),
    [
        (31, 90, 0.01, 5, SLOWER),
        (31, 90, 0.06, 5, CANNOT_TELL),  # the ranks do not agree
        (29, 90, 0.01, 5, CANNOT_TELL),  # it may be within the margin
        (-29, 29, 0.9, 5, SAME),
        (10, 29, 0.001, 5, SAME),  # surely more, and little enough
        (-90, -31, 0.01, 5, FASTER),
        (-90, 90, 0.9, 5, CANNOT_TELL),
        (31, 90, 0.01, 3, CANNOT_TELL),
        (0, 0, 1.0, 3, CANNOT_TELL),
    ],
)
def test_verdict(low: float, high: float, p: float, count: int, verdict: str) -> None:
    assert Shift(1000, 1060, (low + high) / 2, low, high, 1.0, (count, 9)).verdict(MARGIN, p) == verdict


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("noise", [0.005, 0.3])
def test_a_kernel_beside_itself_raises_few_alarms(count: int, noise: float) -> None:
    """Of 40 comparisons of a distribution with itself at most the nominal 5 % may differ; steady ones are the same."""
    words = Counter(
        judge(boots(seed, count, noise=noise), boots(seed + 10_000, count, noise=noise)) for seed in range(40)
    )
    assert words[SLOWER] + words[FASTER] <= 2
    if noise == 0.005:
        assert words[SAME] >= 38


def test_of_many_paths_one_with_a_small_p_is_chance() -> None:
    """Benjamini and Hochberg (1995): the least of m is multiplied by m, the k-th by m/k; their order is kept."""
    ps = [0.01, 0.04, 0.03, 1.0]
    found = adjusted([Shift(1, 1, 0, 0, 0, p, (9, 9)) for p in ps])
    assert found == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 1.0])
    assert adjusted([]) == []


@pytest.mark.parametrize("count", [7, 12])
def test_a_change_is_told_among_fifty_paths(count: int) -> None:
    """Boots and blocks as many as are usual are enough for one path that changed among 49 that did not."""
    changed = shift(boots(1, count), boots(2, count, 1100))
    same = [Shift(1000, 1000, 0, -5, 5, 1.0, (count, count))] * 49
    assert changed.verdict(MARGIN, adjusted([changed, *same])[0]) == SLOWER


@pytest.mark.parametrize("count", [5, 12])
def test_a_tenth_more_is_found(count: int) -> None:
    words = Counter(judge(boots(seed, count), boots(seed + 10_000, count, 1100)) for seed in range(10))
    assert words == {SLOWER: 10}


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """12 replicates, truth +5 %. Resampling few replicates gives intervals that are a little short."""
    found = [shift(boots(seed, 12, noise=0.05), boots(seed + 10_000, 12, 1050, 0.05)) for seed in range(60)]
    assert sum(one.low <= 50 <= one.high for one in found) >= 52


def test_a_side_without_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="without replicates"):
        shift([], [1.0])


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, []),
        (1, []),
        (2, ["p50"]),
        (9, ["p50"]),
        (10, ["p50", "p90"]),
        (99, ["p50", "p90"]),
        (100, ["p50", "p90", "p99"]),
        (999, ["p50", "p90", "p99"]),
        (1000, ["p50", "p90", "p99", "p99.9"]),
    ],
)
def test_a_percentile_needs_a_sample_above_it(count: int, names: list[str]) -> None:
    assert list(tails([(value, 1) for value in range(count)])) == names


def test_percentiles_are_values_that_were_measured() -> None:
    assert tails([(value, 1) for value in range(1, 1001)]) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


def test_mean() -> None:
    assert mean([(10.0, 3), (30.0, 1)]) == 15
    with pytest.raises(ValueError, match="without samples"):
        mean([])
