"""`AtariVecEnv` against SB3's `make_atari_env` + `VecFrameStack(4)`, game by game.

With the same actions both give the same rewards, episode ends, time limits, whole-game returns
and lengths, and frames, but for these differences. Each is held by a test, here or in
`test_atari_vec_env.py` and `test_emulated_game.py`.

 1. Grey before max-pooling. SB3 takes the maximum of two colour frames and turns it grey, ALE takes
    the maximum of two grey frames. In the games below a pixel differs by at most 50 of 255 and a
    frame by at most 0.2 in the mean; in Breakout and SpaceInvaders not at all.
 2. The frame a game ends with. If it is the third or fourth of a held action, SB3 pools it with a
    frame left over from before; ALE leaves it out. This concerns the newest frame of that one
    `terminal_observation`: at most 1 in the mean.
 3. Number of no-ops. A game starts after 0 to 30 no-ops, in SB3 after 1 to 30.
 4. Frames before the first action. In SB3 the no-ops, and in 16 games the frames in which the
    emulator selects the game's mode (134 in NameThisGame, 38 or fewer elsewhere), count towards the
    limit of 108,000 frames; here it begins with the first action. The reported length "l" has both,
    SB3's the no-ops only.
 5. A game that ends between two episodes, by the no-op or the presses after a lost life, is
    reported with that step; SB3 forgets it. Where the second press ends it, the next episode begins
    with the new game's first frame, in SB3 with the ended game's last.
 6. Infos. `TimeLimit.truncated` is there when an episode ends, in SB3 always. `episode` has
    "agent_steps" and "time_limit" besides SB3's "r", "l" and "t", and "t" is that game's own
    duration. `lives` and the frame numbers are not passed on.
 7. Axes. Frames are stacked along the first axis, [4, 84, 84]: what `VecTransposeImage` makes of
    SB3's.
 8. Sticky actions are the emulator's own, equal to SB3's wrappers around an environment made with
    `repeat_action_probability`; the wrappers' `action_repeat_probability` draws from NumPy.
 9. Seeding. The emulator is seeded anew at the first game after each 10,000 agent steps, in SB3
    once. `VecEnv.seed()` has no effect: the seed is given at construction.

1 and 2 are all there is between the frames: where these two steps of SB3's wrappers are replaced
(`make_grey_sb3_env`), its frames equal ours in every pixel.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import ale_py
import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from ale_py.env import AtariEnv
from stable_baselines3.common import atari_wrappers
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv, NoopResetEnv, WarpFrame
from stable_baselines3.common.env_util import make_atari_env, unwrap_wrapper
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from configs.protocols import load_protocol
from envs.seeding import game_seed
from tests.envs.environments import draw_actions, make_env

# Gymnasium calls the -v4 games out of date; they are the ones SB3's wrappers are made for.
pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")

BASELINES = load_protocol("baselines")
MACHADO = load_protocol("machado")
WITHOUT_NO_OPS = BASELINES.replace(no_op_max=0)

# Bounds of the named differences between frames, in grey levels of 0-255.
MAX_POOLING_DIFFERENCE = 50  # 1
MEAN_POOLING_DIFFERENCE = 0.2
MEAN_ENDING_DIFFERENCE = 1.0  # 2

Frames = npt.NDArray[np.uint8]


class PoolGreyFrames(MaxAndSkipEnv):
    """SB3's frame skip with the named differences 1 and 2: grey before pooling, other endings."""

    def __init__(self, env: gymnasium.Env[Any, Any], skip: int = 4) -> None:
        super().__init__(env, skip)
        self._grey = np.zeros((2, *self._obs_buffer.shape[1:3]), dtype=np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**kwargs)
        self._grey[0] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        self._grey[1] = 0
        return self._grey[0].copy(), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total_reward = 0.0
        for remaining in range(self._skip, 0, -1):
            frame, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                break
            if remaining <= 2:
                self._grey[remaining - 1] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        self._grey[0] = self._grey.max(axis=0)
        return self._grey[0].copy(), total_reward, terminated, truncated, info


class ResizeGreyFrames(WarpFrame):
    """SB3's resizing, of frames that are grey already."""

    def observation(self, frame: Any) -> Any:
        size = (self.width, self.height)
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[:, :, None]


def make_sb3_env(
    game: str,
    n_envs: int = 1,
    max_frames: int = 108_000,
    sticky_action_probability: float = 0.0,
    **wrapper_kwargs: Any,
) -> Any:
    gymnasium.register_envs(ale_py)
    env = make_atari_env(
        f"{game}NoFrameskip-v4",
        n_envs=n_envs,
        seed=0,
        env_kwargs={
            "max_num_frames_per_episode": max_frames,
            "repeat_action_probability": sticky_action_probability,
        },
        wrapper_kwargs={"noop_max": 0, **wrapper_kwargs},
    )
    return VecTransposeImage(VecFrameStack(env, 4))


def make_grey_sb3_env(*args: Any, **kwargs: Any) -> Any:
    """SB3's environment with the two wrappers above in the place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atari_wrappers, "MaxAndSkipEnv", PoolGreyFrames)
        patch.setattr(atari_wrappers, "WarpFrame", ResizeGreyFrames)
        return make_sb3_env(*args, **kwargs)


class Step(NamedTuple):
    observations: Any
    rewards: npt.NDArray[np.float32]
    dones: npt.NDArray[np.bool_]
    infos: list[dict[str, Any]]


def step_both(
    ours: Any, sb3: Any, actions: npt.NDArray[np.int64], compare_reports: bool = True
) -> tuple[Step, Step]:
    """Step two environments with the same actions and compare everything but the frames."""
    one, other = Step(*ours.step(actions)), Step(*sb3.step(actions))
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    assert one.rewards.tolist() == other.rewards.tolist()
    assert one.dones.tolist() == other.dones.tolist()
    for info, sb3_info, done in zip(one.infos, other.infos, one.dones, strict=True):
        assert info.get("TimeLimit.truncated", False) == sb3_info["TimeLimit.truncated"]
        assert ("TimeLimit.truncated" in info) == done
        assert ("terminal_observation" in info) == ("terminal_observation" in sb3_info) == done
        if compare_reports:
            assert report_of(info) == report_of(sb3_info)
    return one, other


def report_of(info: dict[str, Any]) -> tuple[float, int] | None:
    """The return and the length of a whole game, if one has ended."""
    return (info["episode"]["r"], info["episode"]["l"]) if "episode" in info else None


@dataclass
class Difference:
    """The largest difference met between two frames: of one pixel, and in the mean."""

    maximum: int = 0
    mean: float = 0.0

    def add(self, frames: Frames, other: Frames) -> None:
        difference = np.abs(frames.astype(np.int16) - other).reshape(-1, 84 * 84)
        self.maximum = max(self.maximum, int(difference.max()))
        self.mean = max(self.mean, float(difference.mean(axis=1).max()))


@pytest.mark.parametrize(
    ("game", "steps", "lives_lost", "games_over"),
    [
        ("Breakout", 500, 20, 4),  # FIRE, lives
        ("Pong", 1000, 0, 1),  # FIRE, no lives
        ("MsPacman", 1000, 5, 2),  # no FIRE, lives
        ("Seaquest", 1000, 8, 2),
        ("Qbert", 1000, 12, 4),
        ("SpaceInvaders", 1000, 5, 2),
        ("Freeway", 250, 0, 0),  # no FIRE, no lives
    ],
)
def test_games_agree(game, steps, lives_lost, games_over):
    """Two environments; `steps` of each."""
    ours = make_env(game, WITHOUT_NO_OPS, 2)
    sb3, grey = make_sb3_env(game, 2), make_grey_sb3_env(game, 2)
    pooling, ending = Difference(), Difference()
    met: Counter[str] = Counter()

    assert ours.observation_space == sb3.observation_space
    assert ours.action_space == sb3.action_space
    first = ours.reset()
    np.testing.assert_array_equal(first, grey.reset())
    pooling.add(first, sb3.reset())
    for actions in draw_actions(ours, steps):
        one, other = step_both(ours, sb3, actions)
        reference = Step(*grey.step(actions))
        np.testing.assert_array_equal(one.observations, reference.observations)
        pooling.add(one.observations, other.observations)
        for index in np.flatnonzero(one.dones):
            game_over = "episode" in one.infos[index]
            met["game over" if game_over else "life lost"] += 1
            last, sb3_last, grey_last = (
                step.infos[index]["terminal_observation"] for step in (one, other, reference)
            )
            np.testing.assert_array_equal(last, grey_last)
            pooling.add(last[:-1], sb3_last[:-1])
            (ending if game_over else pooling).add(last[-1], sb3_last[-1])
    close_all(ours, sb3, grey)

    assert met["life lost"] >= lives_lost
    assert met["game over"] >= games_over
    assert pooling.maximum <= MAX_POOLING_DIFFERENCE
    assert pooling.mean <= MEAN_POOLING_DIFFERENCE
    assert ending.mean <= MEAN_ENDING_DIFFERENCE


def make_three(game: str, max_frames: int) -> tuple[Any, Any, Any]:
    """Ours, SB3's, and SB3's with grey pooling, at their first observations."""
    protocol = WITHOUT_NO_OPS.replace(max_frames_per_game=max_frames)
    ours = make_env(game, protocol)
    environments = (ours, make_sb3_env(game, 1, max_frames), make_grey_sb3_env(game, 1, max_frames))
    for env in environments:
        env.reset()
    return environments


def close_all(*environments: Any) -> None:
    for env in environments:
        env.close()


@pytest.mark.parametrize(
    ("max_frames", "agent_steps"),
    [(12, 1), (20, 3), (30, 6), (45, 10)],  # 8 frames go to the two presses; 30 and 45 end midway
)
def test_time_limits_agree(max_frames, agent_steps):
    ours, sb3, grey = make_three("Breakout", max_frames)
    ends = []
    for step, actions in enumerate(draw_actions(ours, 30), start=1):
        one, _ = step_both(ours, sb3, actions)
        reference = Step(*grey.step(actions))
        np.testing.assert_array_equal(one.observations, reference.observations)
        if one.dones[0]:
            ends.append(step)
            assert one.infos[0]["TimeLimit.truncated"]
            assert report_of(one.infos[0]) == (0, max_frames)
            np.testing.assert_array_equal(
                one.infos[0]["terminal_observation"], reference.infos[0]["terminal_observation"]
            )
    close_all(ours, sb3, grey)
    assert ends == list(range(agent_steps, 31, agent_steps))


@pytest.mark.parametrize(
    ("max_frames", "sb3_reports"),
    [
        pytest.param(4, [True, True, True, True], id="both presses end a game"),
        pytest.param(8, [False, True, False, True], id="the second press ends a game"),
    ],
)
def test_presses_that_end_a_game(max_frames, sb3_reports):
    """Difference 5, with limits so small that the presses reach them."""
    machado = make_env("Breakout", MACHADO.replace(no_op_max=0))
    start = machado.reset()[0, -1]
    ours, sb3, grey = make_three("Breakout", max_frames)
    for actions, reported_by_sb3 in zip(draw_actions(ours, 4), sb3_reports, strict=True):
        one, other = step_both(ours, sb3, actions, compare_reports=False)
        assert report_of(one.infos[0]) == (0, max_frames)
        assert report_of(other.infos[0]) == ((0, max_frames) if reported_by_sb3 else None)
        if one.dones[0]:
            assert one.infos[0]["TimeLimit.truncated"]
            np.testing.assert_array_equal(one.observations[0, -1], start)
    close_all(machado, ours, sb3, grey)


@pytest.fixture(scope="module")
def first_life_loss() -> tuple[npt.NDArray[np.int64], int]:
    """Actions with which a life of Breakout is lost, and the agent step that it is lost in."""
    env = make_env("Breakout", WITHOUT_NO_OPS)
    env.reset()
    actions = draw_actions(env, 100)
    agent_step = next(
        step for step, action in enumerate(actions, start=1) if env.step(action)[2][0]
    )
    env.close()
    return actions, agent_step


@pytest.mark.parametrize(
    ("frames_left", "steps_later", "reported_by_sb3", "same_frames"),
    [
        pytest.param(0, 0, True, True, id="ended by the same step"),
        pytest.param(4, 0, False, True, id="ended by the no-op"),
        pytest.param(8, 0, False, True, id="ended by FIRE"),
        pytest.param(12, 0, False, False, id="ended by action 2"),
        pytest.param(16, 1, True, True, id="ended by the next step"),
    ],
)
def test_time_limit_about_a_lost_life(
    first_life_loss, frames_left, steps_later, reported_by_sb3, same_frames
):
    """Difference 5, and which of life loss and time limit an episode's end is."""
    actions, life_loss = first_life_loss
    max_frames = 4 * (2 + life_loss) + frames_left  # 2: the presses
    ours, sb3, grey = make_three("Breakout", max_frames)
    reports: dict[int, Any] = {}
    sb3_reports: dict[int, Any] = {}
    frames_differ = []
    for step, action in enumerate(actions[: life_loss + 6], start=1):
        one, other = step_both(ours, sb3, action, compare_reports=False)
        reference = Step(*grey.step(action))
        if not np.array_equal(one.observations, reference.observations):
            frames_differ.append(step)
        for reported, info in ((reports, one.infos[0]), (sb3_reports, other.infos[0])):
            if "episode" in info:
                reported[step] = (report_of(info), info["TimeLimit.truncated"])
    close_all(ours, sb3, grey)
    ended_at_time_limit = steps_later > 0  # not where a life was lost in the same step
    assert reports == {life_loss + steps_later: ((0, max_frames), ended_at_time_limit)}
    assert sb3_reports == (reports if reported_by_sb3 else {})
    in_the_stack = [life_loss, life_loss + 1, life_loss + 2, life_loss + 3]
    assert frames_differ == ([] if same_frames else in_the_stack)


def test_a_life_lost_in_the_no_op_after_a_lost_life():
    """It ends no episode of its own: Atlantis, with actions held so long that it happens."""
    protocol = WITHOUT_NO_OPS.replace(frames_per_agent_step=64)
    ours = make_env("Atlantis", protocol)
    sb3 = make_sb3_env("Atlantis", frame_skip=64)
    ours.reset()
    sb3.reset()
    for actions in draw_actions(ours, 80):  # in step 48
        step_both(ours, sb3, actions, compare_reports=False)
    close_all(ours, sb3)


def test_sticky_actions_are_the_emulators(monkeypatch):
    """Difference 8: given the emulator's seed, games with sticky actions agree too."""
    seed = game_seed(0, 0, 0, "training")
    monkeypatch.setattr(
        AtariEnv, "seed_game", lambda env, _=None: env.ale.setInt("random_seed", np.int32(seed))
    )
    ours = make_env("MsPacman", MACHADO)  # has no FIRE
    grey = make_grey_sb3_env(
        "MsPacman", sticky_action_probability=0.25, terminal_on_life_loss=False
    )
    np.testing.assert_array_equal(ours.reset(), grey.reset())
    games_over = 0
    for actions in draw_actions(ours, 800):
        one, other = step_both(ours, grey, actions)
        np.testing.assert_array_equal(one.observations, other.observations)
        games_over += int(one.dones[0])
    close_all(ours, grey)
    assert games_over >= 1


def test_number_of_no_ops():
    """Difference 3: 0 to 30, all alike; SB3 1 to 30. The games are cut after one frame."""
    protocol = MACHADO.replace(no_op_max=30, frames_per_agent_step=1, max_frames_per_game=1)
    env = make_env("Breakout", protocol)
    env.reset()
    no_op = np.zeros(1, dtype=np.int64)
    counts = Counter(env.step(no_op)[3][0]["episode"]["l"] - 1 for _ in range(310))
    env.close()
    assert sorted(counts) == list(range(31))
    chi_squared = sum((count - 10) ** 2 / 10 for count in counts.values())
    assert chi_squared < 59.7  # p = 0.001 with 30 degrees of freedom

    sb3 = make_sb3_env("MsPacman", noop_max=30)  # presses no FIRE
    (emulator,) = sb3.get_attr("ale")
    sb3_counts = set()
    for _ in range(300):
        sb3.reset()
        sb3_counts.add(emulator.getEpisodeFrameNumber())
    sb3.close()
    assert sb3_counts == set(range(1, 31))


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_games_with_as_many_no_ops_agree(game):
    """Differences 3 and 4: the no-ops come first and are not counted in the frame limit."""
    ours = make_env(game, BASELINES.replace(max_frames_per_game=400))
    first = ours.reset()
    actions = draw_actions(ours, 110)
    steps: list[Step] = []
    while not steps or "episode" not in steps[-1].infos[0]:
        steps.append(Step(*ours.step(actions[len(steps)])))
    ours.close()
    length_frames = steps[-1].infos[0]["episode"]["l"]
    no_ops = length_frames - 400
    assert 1 <= no_ops <= 30

    grey = make_grey_sb3_env(game, max_frames=length_frames, noop_max=30)
    no_op_reset = unwrap_wrapper(grey.unwrapped.envs[0], NoopResetEnv)
    assert isinstance(no_op_reset, NoopResetEnv)
    no_op_reset.override_num_noops = no_ops
    np.testing.assert_array_equal(first, grey.reset())
    for action, step in zip(actions, steps, strict=False):
        reference = Step(*grey.step(action))
        assert step.rewards.tolist() == reference.rewards.tolist()
        assert step.dones.tolist() == reference.dones.tolist()
        if step is not steps[-1]:  # the next game draws its own no-ops
            np.testing.assert_array_equal(step.observations, reference.observations)
    assert report_of(steps[-1].infos[0]) == report_of(reference.infos[0])
    assert steps[-1].infos[0]["TimeLimit.truncated"]
    grey.close()


@pytest.mark.parametrize(("game", "mode_frames"), [("NameThisGame", 134), ("Berzerk", 20)])
def test_frames_that_select_the_mode(game, mode_frames):
    """Difference 4: without them limits and lengths agree."""
    protocol = WITHOUT_NO_OPS.replace(max_frames_per_game=100)
    ours = make_env(game, protocol)
    grey = make_grey_sb3_env(game, 1, max_frames=100 + mode_frames)
    np.testing.assert_array_equal(ours.reset(), grey.reset())
    reports = []
    for actions in draw_actions(ours, 60):
        one, other = step_both(ours, grey, actions, compare_reports=False)
        np.testing.assert_array_equal(one.observations, other.observations)
        report, sb3_report = report_of(one.infos[0]), report_of(other.infos[0])
        if report is not None or sb3_report is not None:
            reports.append((report, sb3_report))
    close_all(ours, grey)
    assert len(reports) == 2
    for report, sb3_report in reports:
        assert report is not None
        assert sb3_report == (report[0], 100)
        assert report[1] == 100 + mode_frames
