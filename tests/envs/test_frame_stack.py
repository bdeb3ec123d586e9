import numpy as np

from envs.frame_stack import drop_oldest, empty_stacks, frames_of, observations_of


def test_two_stacks_of_one_pixel_by_hand():
    stacks = empty_stacks(2, 1, 1)
    for values in ([1, 2], [3, 4], [5, 255], [7, 8], [9, 0]):
        drop_oldest(stacks)
        assert frames_of(stacks)[..., -1].flatten().tolist() == [0, 0]
        frames_of(stacks)[:, 0, 0, -1] = values
    assert observations_of(stacks)[:, :, 0, 0].tolist() == [[3, 5, 7, 9], [4, 255, 8, 0]]


def test_observations_are_a_view_with_the_channels_last():
    stacks = empty_stacks(3, 5, 7)
    observations = observations_of(stacks)
    assert observations.shape == (3, 4, 5, 7)
    assert observations.dtype == np.uint8
    assert observations.strides == (5 * 7 * 4, 1, 7 * 4, 4)
    observations[1, 2, 3, 4] = 200
    assert frames_of(stacks)[1, 3, 4, 2] == 200
    assert stacks[1, 3, 4] == 200 << 16
