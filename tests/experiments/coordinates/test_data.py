import pytest
import torch

from experiments.coordinates.data import (
    SplitName,
    draw_points,
    draw_squares,
    scale_positions,
    split_positions,
)


@pytest.mark.parametrize(
    ("split", "train_count", "test_count"), [("uniform", 2368, 768), ("quadrant", 2407, 729)]
)
def test_splits_have_the_papers_counts(split: SplitName, train_count: int, test_count: int) -> None:
    train, test = split_positions(split, 64, 0)
    assert (len(train), len(test)) == (train_count, test_count)
    both = torch.cat([train, test])
    assert len(both.unique(dim=0)) == 3136
    assert (int(both.min()), int(both.max())) == (4, 59)


def test_quadrant_holds_out_what_is_right_of_and_below_the_centre() -> None:
    train, test = split_positions("quadrant", 64, 0)
    assert test.min() == 33
    assert [4, 59] in train.tolist()
    assert [33, 32] in train.tolist()
    assert [33, 33] in test.tolist()


def test_uniform_split_follows_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = split_positions("uniform", 64, 3).test
    torch.manual_seed(2)
    assert torch.equal(one, split_positions("uniform", 64, 3).test)
    assert not torch.equal(one, split_positions("uniform", 64, 4).test)


def test_point_is_one_white_pixel_at_row_and_column() -> None:
    images = draw_points(torch.tensor([[5, 7], [4, 11]]), 16)
    assert images.shape == (2, 1, 16, 16)
    assert images.nonzero().tolist() == [[0, 0, 5, 7], [1, 0, 4, 11]]
    assert images.sum() == 2


def test_square_is_nine_by_nine_white_pixels() -> None:
    image = draw_squares(torch.tensor([[5, 11]]), 16)[0]
    expected = torch.zeros(16, 16)
    expected[1:10, 7:16] = 1
    assert torch.equal(image, expected)


def test_positions_are_scaled_like_the_canvas() -> None:
    scaled = scale_positions(torch.tensor([[0, 63], [21, 42]]), 64)
    torch.testing.assert_close(scaled, torch.tensor([[-1, 1], [-1 / 3, 1 / 3]]))
