import pytest
from hypothesis import given
from hypothesis import strategies as st

from kselftests_py.measure import merge, percentile, rebin, samples, spread

histograms = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1).filter(
    lambda pairs: any(count for _, count in pairs)
)


@given(histograms, st.integers(0, 100))
def test_percentile_is_the_nearest_rank_of_the_samples(histogram, percent):
    values = sorted(value for value, count in histogram for _ in range(count))
    rank = -(-percent * len(values) // 100)  # in whole numbers: numpy's 0.07 * 100 is more than 7
    assert percentile(histogram, percent) == values[max(rank, 1) - 1]


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentiles_of_a_hundred_values_are_these_values(percent):
    assert percentile([(value, 1) for value in range(1, 101)], percent) == percent


@pytest.mark.parametrize(("percent", "value"), [(0, 10), (7, 10), (50, 10), (51, 20), (99, 20), (99.5, 30), (100, 30)])
def test_percentile_is_a_measured_value(percent, value):
    assert percentile([(30, 1), (10, 50), (20, 49), (5, 0)], percent) == value


@pytest.mark.parametrize(("histogram", "percent"), [([], 50), ([(1, 0)], 50), ([(1, 1)], -1), ([(1, 1)], 101)])
def test_percentile_of_nothing_is_an_error(histogram, percent):
    with pytest.raises(ValueError, match="percent"):
        percentile(histogram, percent)


@given(st.lists(histograms, max_size=4))
def test_merge_loses_no_sample(parts):
    whole = merge(parts)
    assert samples(whole) == sum(samples(part) for part in parts)
    assert [value for value, _ in whole] == sorted({value for part in parts for value, _ in part})


def test_spread_and_rebin():
    histogram = [(value, 1) for value in range(1, 101)]
    assert spread(histogram) == (10, 90)
    assert rebin(histogram, [1, 51, 91]).tolist() == [0.5, 0.41]  # the last bin is closed: 51..91
