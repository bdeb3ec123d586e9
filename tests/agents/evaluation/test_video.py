"""The replayed game is the scored one, and the file shows it, frame for frame."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from agents.evaluation.games import PlayedGame, RecordedGame, find_game_seed
from agents.evaluation.video import (
    find_ffmpeg,
    frames_per_second,
    replay_game,
    write_gif,
    write_video,
)
from configs.protocols import load_protocol
from envs.games import find_game
from tests.refusals import refusal


def play_at_random(name: str, protocol):
    """A game of random play, and the last frame of each action."""
    recorded = RecordedGame(find_game(name), protocol, 7, 0)
    generator = np.random.default_rng(1)
    recorded.start()
    seen = {len(recorded.sent): recorded.first_frame.copy()}
    while not recorded.unreported:
        recorded.send(int(generator.integers(recorded.action_count)))
        number = len(recorded.sent)
        seen[number] = recorded.receive().frame.copy()
        while recorded.restarting:
            recorded.continue_restart()
    finished = recorded.unreported[0]
    scored = PlayedGame(
        seed=find_game_seed(7, 0),
        actions=bytes(recorded.sent[: finished.length_agent_steps]),
        raw_return=finished.raw_return,
        length_frames=finished.length_frames,
        time_limit=finished.time_limit,
        frames_before=finished.frames_before,
    )
    return scored, seen


# In NameThisGame the emulator takes 134 frames to select the mode, which nobody sees.
@pytest.mark.parametrize(
    ("name", "protocol_name", "max_frames", "unseen"),
    [
        ("Breakout", "baselines", 108_000, 0),  # no-ops, presses between lives, end in mid-action
        ("Breakout", "machado", 108_000, 0),  # sticky actions
        ("SpaceInvaders", "machado", 402, 0),  # the frame limit cuts an action short
        ("NameThisGame", "baselines", 100, 134),
    ],
)
def test_a_replayed_game_has_the_scored_return_and_length(name, protocol_name, max_frames, unseen):
    protocol = load_protocol(protocol_name).replace(max_frames_per_game=max_frames)
    scored, _ = play_at_random(name, protocol)
    frames = list(replay_game(find_game(name), protocol, scored))
    assert len(frames) == scored.length_frames - unseen
    assert {(frame.shape, frame.dtype) for frame in frames} == {((210, 160, 3), np.dtype(np.uint8))}


def test_a_replay_shows_what_the_agent_saw():
    """The agent's frames are the brighter of the last two of each action, grey and shrunk."""
    protocol = load_protocol("baselines").replace(max_frames_per_game=400)
    scored, seen = play_at_random("SpaceInvaders", protocol)
    frames = list(replay_game(find_game("SpaceInvaders"), protocol, scored))
    grey = [frame @ np.array([0.2989, 0.5870, 0.1140]) for frame in frames]
    no_ops = len(frames) - 400
    compared = 0
    for number, frame in seen.items():
        last = no_ops + 4 * number - 1
        if number == 0 or last >= len(frames) - 4:  # the last action's frames are cut short
            continue
        brighter = np.maximum(grey[last], grey[last - 1]).round().astype(np.uint8)
        shrunk = cv2.resize(brighter, (84, 84), interpolation=cv2.INTER_AREA)
        assert np.abs(shrunk.astype(int) - frame).max() <= 1  # rounding
        compared += 1
    assert compared > 90


@pytest.mark.parametrize(
    ("change", "told"), [({"raw_return": 5}, "(5, 60)"), ({"length_frames": 61}, "(0, 61)")]
)
def test_a_replay_that_comes_out_differently_is_refused(change, told):
    protocol = load_protocol("machado").replace(max_frames_per_game=60)
    scored, _ = play_at_random("Breakout", protocol)
    frames = replay_game(find_game("Breakout"), protocol, replace(scored, **change))
    assert refusal(list, frames, error=AssertionError) == (
        f"the replayed Breakout came to (return, frames) (0, 60), not {told}"
    )


# --- the file -------------------------------------------------------------------------------------

COLOURS = np.array([(200, 72, 72), (66, 158, 130), (142, 142, 142), (10, 10, 240)], dtype=np.uint8)


def describe(path: Path) -> str:
    """What ffmpeg says of a video."""
    return subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-i", path], capture_output=True, text=True, check=False
    ).stderr


def decode(path: Path, pixel_format: str, video_filter: str = "null") -> np.ndarray:
    """All frames of a video, flat."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-vf", video_filter]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixel_format, "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


def striped_frames(count: int, rows: int = 210) -> list[np.ndarray]:
    """Stripes of four colours, five pixels wide, which move by one pixel a frame."""
    stripes = [(np.arange(160) + shift) // 5 % 4 for shift in range(count)]
    return [np.repeat(COLOURS[stripe][None], rows, axis=0) for stripe in stripes]


@pytest.mark.parametrize(("rows", "fps"), [(210, 60), (250, 50)])  # NTSC, PAL
def test_a_video_has_every_frame_sharp_and_in_colour(tmp_path, rows, fps):
    frames = striped_frames(7, rows)
    path = tmp_path / "game.mp4"
    write_video(path, iter(frames))
    assert re.search(
        rf"Video: h264 .*, yuv420p\(tv, bt709, .*\), 800x{3 * rows}, .*, {fps} fps,", describe(path)
    )
    decoded = decode(path, "rgb24").reshape(7, 3 * rows, 800, 3)
    for shown, frame in zip(decoded, frames, strict=True):
        middles = shown[1::3, 2::5].astype(int)  # of each pixel's block of 5 x 3
        assert np.abs(middles - frame).mean() < 4
    # Colour has half the resolution in any video that browsers play; brightness has all of it.
    planes = decode(path, "gray", "extractplanes=y").reshape(7, 3 * rows, 800)
    for plane, frame in zip(planes, frames, strict=True):
        brightness = 16 + 219 / 255 * (frame @ np.array([0.2126, 0.7152, 0.0722]))  # BT.709
        sharp = brightness.repeat(5, axis=1).repeat(3, axis=0)
        assert np.abs(plane - sharp).max() < 30  # the greatest edge is of 104
        assert np.abs(plane - sharp).mean() < 1
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is all there
    assert [left.name for left in tmp_path.iterdir()] == ["game.mp4"]


def test_a_gif_shows_the_first_20_seconds_and_what_flickers(tmp_path):
    """A quarter of the frames, each the brighter of two; twice as wide and 6/5 as high."""
    dark, bright = np.zeros((210, 160, 3), np.uint8), np.zeros((210, 160, 3), np.uint8)
    bright[100:110, 50:60] = (200, 72, 72)  # drawn in every other frame
    write_gif(tmp_path / "game.gif", (frame for _ in range(700) for frame in (dark, bright)))
    durations = []
    with Image.open(tmp_path / "game.gif") as gif:
        assert gif.size == (320, 252)
        for picture in ImageSequence.Iterator(gif):
            durations.append(picture.info["duration"])
            pixels = np.asarray(picture.convert("RGB"))
            assert pixels[126, 110].tolist() == [200, 72, 72]
            assert pixels[20, 110].max() == 0
    assert len(durations) == 300
    assert sum(durations) == pytest.approx(20_000, abs=100)


def test_a_gif_of_any_game_stays_below_2_mb(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (260, 210, 160), dtype=np.uint8)
    write_gif(
        tmp_path / "game.gif", (COLOURS[frame % 4] ^ (frame[..., None] // 9) for frame in noise)
    )
    assert 1_000_000 < (tmp_path / "game.gif").stat().st_size < 2_000_000


PAL_GAMES = [
    *("Adventure", "AirRaid", "KeystoneKapers", "KingKong", "Klax"),
    *("LaserGates", "MrDo", "Pacman", "SirLancelot", "SpaceWar"),
]


def test_the_games_at_50_frames_a_second_are_those_of_pal():
    """The ten that ALE draws with 250 rows, as the names of some ROMs in its list say: (PAL)."""
    rates = {
        name: frames_per_second(find_game(name).load_emulator(0, 0.0).getScreenDims()[0])
        for name in [*PAL_GAMES, "Pong", "Carnival", "JourneyEscape", "Pooyan"]
    }
    assert [name for name, rate in rates.items() if rate == 50] == PAL_GAMES
    assert set(rates.values()) == {50, 60}


def test_frames_are_encoded_as_they_come(tmp_path):
    """Never more than a few frames are in memory: the next is asked for when one is written."""
    alive: list[int] = []

    class Frame(np.ndarray):
        def __del__(self) -> None:
            alive.remove(id(self))

    def frames():
        for plain in striped_frames(20):
            frame = plain.view(Frame)
            alive.append(id(frame))
            assert len(alive) <= 3
            yield frame
            del frame

    write_video(tmp_path / "game.mp4", frames())


def test_a_failing_game_leaves_the_old_video(tmp_path):
    path = tmp_path / "game.mp4"
    path.write_bytes(b"old")

    def frames():
        yield from striped_frames(3)
        raise AssertionError("the replay differs")

    with pytest.raises(AssertionError, match=r"^the replay differs$"):
        write_video(path, frames())
    assert path.read_bytes() == b"old"
    assert [left.name for left in tmp_path.iterdir()] == ["game.mp4"]


@pytest.mark.parametrize(
    ("complaint", "message"),
    [
        ("first line\\nNo such codec", "encoded (No such codec); evaluate without --video."),
        ("", "encoded (ffmpeg gave no reason); evaluate without --video."),
        (
            "av_interleaved_write_frame(): No space left on device",
            "written (No space left on device); free some space.",
        ),
    ],
)
def test_a_failing_ffmpeg_is_one_line(tmp_path, monkeypatch, complaint, message):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\nprintf '{complaint}' >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    folder = tmp_path / "evaluation"
    folder.mkdir()
    path = folder / "game.mp4"
    line = refusal(write_video, path, striped_frames(50), error=OSError)
    assert line == f"{path} cannot be {message}"
    assert list(folder.iterdir()) == []


def test_no_ffmpeg_is_one_line(monkeypatch):
    def fail():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", fail)
    assert refusal(find_ffmpeg, error=FileNotFoundError) == (
        "imageio-ffmpeg has no ffmpeg for this platform; set IMAGEIO_FFMPEG_EXE to one."
    )
