"""Columns of plain text."""

import pytest

from runtime.text_table import align_columns


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (1, ["run         steps  left", "Pong/seed0      7   1 h", "Q           1_000     -"]),
        (3, ["run         steps  left", "Pong/seed0  7      1 h", "Q           1_000  -"]),
    ],
)
def test_words_are_flush_left_and_numbers_flush_right(left, expected):
    rows = [("run", "steps", "left"), ("Pong/seed0", "7", "1 h"), ("Q", "1_000", "-")]
    assert align_columns(rows, left=left) == expected
