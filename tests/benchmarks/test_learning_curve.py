import numpy as np

from benchmarks.learning_curve import WINDOW, means_at


def test_means_at_marks_are_of_the_last_games_that_had_ended() -> None:
    """Game k, counted from 1, ends at step 10 k with the return k."""
    numbers = np.arange(1, WINDOW + 4)
    means = np.convolve(numbers, np.ones(WINDOW) / WINDOW, "valid")
    marks = np.array([10 * WINDOW - 1, 10 * WINDOW, 10 * WINDOW + 19, 10**6])
    # Of games 1 to 100 the mean is 50.5; of 2 to 101 and of 4 to 103, one and three more.
    expected = [np.nan, 50.5, 51.5, 53.5]
    np.testing.assert_allclose(means_at(marks, 10 * numbers, means), expected)
