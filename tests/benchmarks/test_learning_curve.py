import numpy as np

from benchmarks.learning_curve import means_at
from experiments.comparison.statistics.curves import moving_means


def test_means_at_marks_are_of_the_last_games_that_had_ended():
    """Game k, counted from 1, ends at step 10 k with the return k."""
    numbers = np.arange(1, 104)
    marks = np.array([999, 1000, 1019, 10**6])
    # Of games 1 to 100 the mean is 50.5; of 2 to 101 and of 4 to 103, one and three more.
    expected = [np.nan, 50.5, 51.5, 53.5]
    np.testing.assert_allclose(means_at(marks, 10 * numbers, moving_means(numbers)), expected)
    assert len(moving_means(numbers[:99])) == 0
