"""A video of one played game: the original frames in colour, as H.264 that browsers play.

ALE's vector environment, on which games are played, gives neither colour nor the frames an action
is held for. So the game is played again on a plain emulator, from the same seed with the same
actions, and what it scores there must be what it scored before.
"""

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv

from configs.protocols import Protocol
from envs.games import Game
from runtime.files import open_atomically

FRAMES_PER_SECOND = 60  # of game time: what the console drew on an American television
# An Atari pixel is 12/7 as wide as high on such a television; 5/3 is the nearest ratio of small
# whole numbers, so every pixel stays a sharp block.
PIXEL_WIDTH, PIXEL_HEIGHT = 5, 3

Frame = npt.NDArray[np.uint8]


def replay_game(
    game: Game,
    protocol: Protocol,
    *,
    seed: int,
    actions: Sequence[int],
    raw_return: int,
    length_frames: int,
) -> Iterator[Frame]:
    """Play a game again that `envs.emulated_game.EmulatedGame` played, and check that it is it.

    Args:
        game: The game.
        protocol: How it was presented.
        seed: What the emulator was seeded with at the game's start.
        actions: All of the game's actions, those between its lives included, as numbers of the
            minimal action set.
        raw_return: What it scored.
        length_frames: How long it was, as `FinishedGame` counts it.

    Yields:
        Every emulated frame, [rows, 160, 3] uint8 RGB; those in which the emulator selects the
        game's mode are not to be had.

    Raises:
        AssertionError: After the last frame, if the game did not come out as it was scored.
    """
    emulator = game.load_emulator(seed, protocol.sticky_action_probability)
    emulator.reset_game()
    action_set = emulator.getMinimalActionSet()
    replayed_return = played_frames = 0
    first_frame_number = _find_first_frame_number(game, protocol, seed)
    while emulator.getEpisodeFrameNumber() < first_frame_number:
        emulator.act(action_set[0])  # a no-op
        yield emulator.getScreenRGB()
    for action in actions:
        for _ in range(protocol.frames_per_agent_step):
            replayed_return += emulator.act(action_set[action])
            played_frames += 1
            yield emulator.getScreenRGB()
            if emulator.game_over() or played_frames >= protocol.max_frames_per_game:
                break
    replayed = (replayed_return, emulator.getEpisodeFrameNumber())
    assert replayed == (raw_return, length_frames), (
        f"the replayed {game.name} came to (return, frames) {replayed}, not "
        f"{(raw_return, length_frames)}"
    )


def _find_first_frame_number(game: Game, protocol: Protocol, seed: int) -> int:
    """The number of the frame, after the no-ops, that the agent saw first.

    ALE's vector environment draws the no-ops with the C++ library's generator, whose draws differ
    between platforms; so it is asked.
    """
    emulator = AtariVectorEnv(
        game.rom_id, num_envs=1, noop_max=protocol.no_op_max + 1, use_fire_reset=False
    )
    _, info = emulator.reset(seed=seed)
    return int(info["episode_frame_number"][0])


def write_video(path: Path, frames: Iterable[Frame]) -> None:
    """Encode frames as they come, 60 a second, each pixel a block of 5 x 3.

    Args:
        path: The mp4 file; it appears complete or not at all.
        frames: At least one; [rows, columns, 3] uint8 RGB, all of one size, even numbers of rows
            and columns.

    Raises:
        OSError: If the file cannot be written or ffmpeg fails.
    """
    ffmpeg = find_ffmpeg()
    frames = iter(frames)
    first = next(frames)
    with (
        open_atomically(path) as stream,
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            _encode_command(ffmpeg, first.shape[1], first.shape[0], Path(stream.name)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for Python, which then ends ffmpeg
        ) as process,
    ):
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # the log says why it ended early
                for frame in chain((first,), frames):
                    process.stdin.write(frame.tobytes())
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
        if process.wait() != 0:
            raise _describe_failure(path, log)


def find_ffmpeg() -> str:
    """The ffmpeg that imageio-ffmpeg brings.

    Raises:
        FileNotFoundError: If it is not there.
    """
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()  # type: ignore[no-any-return]
    except RuntimeError:
        raise FileNotFoundError(
            "imageio-ffmpeg has no ffmpeg for this platform; set IMAGEIO_FFMPEG_EXE to one."
        ) from None


def _encode_command(ffmpeg: str, width: int, height: int, path: Path) -> list[str]:
    scale = f"scale={width * PIXEL_WIDTH}:{height * PIXEL_HEIGHT}:flags=neighbor"
    colours = "color_primaries=bt709:color_trc=bt709:colorspace=bt709"
    return [
        *(ffmpeg, "-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-r", str(FRAMES_PER_SECOND), "-i", "pipe:0"),
        "-vf",
        f"{scale}:out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams={colours}",
        *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18"),
        *("-movflags", "+faststart", "-f", "mp4", f"file:{path.resolve()}"),
    ]


def _describe_failure(path: Path, log: IO[bytes]) -> OSError:
    log.seek(0)
    complaint = log.read().decode(errors="replace").strip()
    if os.strerror(errno.ENOSPC) in complaint:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    last_line = complaint.splitlines()[-1] if complaint else "ffmpeg gave no reason"
    return OSError(f"{path} cannot be encoded ({last_line}); evaluate without --video.")
