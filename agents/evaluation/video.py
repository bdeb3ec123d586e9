"""A video of one played game: the original frames in colour, as H.264 that browsers play, or a GIF.

ALE's vector environment, on which games are played, gives neither colour nor the frames an action
is held for. So the game is played again on a plain emulator, from the same seed with the same
actions, and what it scores there must be what it scored before.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from agents.evaluation.games import PlayedGame
from configs.protocols import Protocol
from envs.games import Game
from runtime.files import open_atomically

_PAL_ROWS = 250
_GIF_SECONDS = 20
_GIF_BYTES = 1_500_000  # ffmpeg stops up to eight frames behind it
# An Atari pixel is 12/7 as wide as high on such a television; 5/3 is the nearest ratio of small
# whole numbers, so every pixel stays a sharp block.
PIXEL_WIDTH, PIXEL_HEIGHT = 5, 3

Frame = npt.NDArray[np.uint8]


def replay_game(game: Game, protocol: Protocol, played: PlayedGame) -> Iterator[Frame]:
    """Play a game again that was scored, presented by the same protocol, and check that it is it.

    Yields:
        Every emulated frame, [rows, 160, 3] uint8 RGB; those in which the emulator selects the
        game's mode are not to be had.

    Raises:
        AssertionError: After the last frame, if the game did not come out as it was scored.
    """
    emulator = game.load_emulator(played.seed, protocol.sticky_action_probability)
    emulator.reset_game()
    action_set = emulator.getMinimalActionSet()
    replayed_return = played_frames = 0
    while emulator.getEpisodeFrameNumber() < played.frames_before:
        emulator.act(action_set[0])  # a no-op
        yield emulator.getScreenRGB()
    for action in played.actions:
        for _ in range(protocol.frames_per_agent_step):
            replayed_return += emulator.act(action_set[action])
            played_frames += 1
            yield emulator.getScreenRGB()
            if emulator.game_over() or played_frames >= protocol.max_frames_per_game:
                break
    scored = (played.raw_return, played.length_frames)
    replayed = (replayed_return, emulator.getEpisodeFrameNumber())
    if replayed != scored:
        raise AssertionError(
            f"the replayed {game.name} came to (return, frames) {replayed}, not {scored}"
        )


def write_video(path: Path, frames: Iterable[Frame]) -> None:
    """Encode frames as they come, each pixel a block of 5 x 3.

    Args:
        path: The mp4 file; it appears complete or not at all.
        frames: At least one; [rows, columns, 3] uint8 RGB, all of one size, even numbers of rows
            and columns.

    Raises:
        OSError: If the file cannot be written or ffmpeg fails.
    """
    scale = f"scale=iw*{PIXEL_WIDTH}:ih*{PIXEL_HEIGHT}:flags=neighbor"
    colours = "color_primaries=bt709:color_trc=bt709:colorspace=bt709"
    options = [
        *("-vf", f"{scale}:out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams={colours}"),
        *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18"),
        *("-movflags", "+faststart", "-f", "mp4"),
    ]
    _encode(path, frames, options, "--video")


def write_gif(path: Path, frames: Iterable[Frame]) -> None:
    """Encode the first 20 seconds, or what of them fits into 2 MB, in a quarter of the frames.

    Arguments and errors are those of `write_video`.
    """
    # Many games draw an object in every other frame only, so the brighter of two frames is shown.
    video_filter = (
        "format=gbrp,tblend=all_mode=lighten,framestep=4,scale=iw*2:ih*6/5:flags=neighbor,"
        "split[a][b];[a]palettegen[colours];[b][colours]paletteuse=dither=none"
    )
    options = ["-vf", video_filter, "-fs", str(_GIF_BYTES), "-f", "gif"]
    _encode(path, frames, options, "--gif", _GIF_SECONDS)


def frames_per_second(rows: int) -> int:
    """What the console drew on the television that a game was made for.

    ALE shows 250 rows of the ten games it has in their PAL version (adventure, air_raid,
    keystone_kapers, king_kong, klax, laser_gates, mr_do, pacman, sir_lancelot, space_war) and of no
    other, and its own frame rate goes by the same flag (Console.cxx); ale-py does not give it.
    """
    return 50 if rows == _PAL_ROWS else 60


def _encode(
    path: Path, frames: Iterable[Frame], options: list[str], flag: str, seconds: int | None = None
) -> None:
    frames = iter(frames)
    first = next(frames)
    rows, columns, _ = first.shape
    rate = frames_per_second(rows)
    shown = islice(chain((first,), frames), seconds and seconds * rate)
    with open_atomically(path) as stream, tempfile.TemporaryFile() as log:
        command = [
            *(find_ffmpeg(), "-y", "-loglevel", "error"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{columns}x{rows}"),
            *("-r", str(rate), "-i", "pipe:0", *options),
            f"file:{Path(stream.name).resolve()}",
        ]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for Python, which then ends ffmpeg
        ) as process:
            assert process.stdin is not None
            try:
                with suppress(BrokenPipeError):  # it has enough, or the log says why it ended
                    for frame in shown:
                        process.stdin.write(frame.tobytes())
            except BaseException:
                process.kill()
                raise
            finally:
                with suppress(BrokenPipeError):
                    process.stdin.close()
        if process.returncode != 0:
            raise _describe_failure(path, log, flag)


def find_ffmpeg() -> str:
    """The ffmpeg that imageio-ffmpeg brings, or names; FileNotFoundError if it is not there."""
    try:
        ffmpeg: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise FileNotFoundError(
            "imageio-ffmpeg has no ffmpeg for this platform; set IMAGEIO_FFMPEG_EXE to one."
        ) from None
    if shutil.which(ffmpeg) is None:
        raise FileNotFoundError(f"IMAGEIO_FFMPEG_EXE is {ffmpeg}, which is no program; correct it.")
    return ffmpeg


def _describe_failure(path: Path, log: IO[bytes], flag: str) -> OSError:
    log.seek(0)
    complaint = log.read().decode(errors="replace").strip()
    if os.strerror(errno.ENOSPC) in complaint:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    last_line = complaint.splitlines()[-1] if complaint else "ffmpeg gave no reason"
    return OSError(f"{path} cannot be encoded ({last_line}); evaluate without {flag}.")
