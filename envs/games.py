"""The games ale-py ships: their names, ROM ids, and the scores of random play and of humans."""

import csv
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ale_py import ALEInterface, LoggerMode, roms

# ROMs that only have a multi-player mode; the emulator ends the process when asked to play one.
_MULTI_PLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})


@dataclass(frozen=True)
class Game:
    """One Atari game.

    Attributes:
        name: As Gymnasium spells it: "MsPacman".
        rom_id: As ale-py's ROM files spell it: "ms_pacman".
        random_return: Mean return of a uniformly random player, None outside the Atari 57.
        human_return: Mean return of a professional human tester, None outside the Atari 57.
    """

    name: str
    rom_id: str
    random_return: float | None
    human_return: float | None

    def human_normalised_score(self, mean_return: float) -> float | None:
        """0 for random play, 1 for the human tester (Mnih et al. 2015); None without scores."""
        if self.random_return is None or self.human_return is None:
            return None
        return (mean_return - self.random_return) / (self.human_return - self.random_return)

    def load_emulator(self, seed: int, sticky_action_probability: float) -> ALEInterface:
        """A plain emulator with the game's ROM in it; takes 0.1 s."""
        ALEInterface.setLoggerMode(LoggerMode.Error)
        emulator = ALEInterface()
        emulator.setInt("random_seed", seed)
        emulator.setFloat("repeat_action_probability", sticky_action_probability)
        rom = roms.get_rom_path(self.rom_id)
        assert rom is not None
        emulator.loadROM(rom)
        return emulator

    def count_actions(self) -> int:
        """The number of actions in ALE's minimal set."""
        return len(self.load_emulator(0, 0.0).getMinimalActionSet())


@cache
def all_games() -> dict[str, Game]:
    """Every single-player game ale-py ships, by name, in alphabetical order."""
    scores = _load_scores()
    games = (
        Game(rom_id.title().replace("_", ""), rom_id, *scores.get(rom_id, (None, None)))
        for rom_id in sorted(roms.get_all_rom_ids())
        if rom_id not in _MULTI_PLAYER_ONLY
    )
    return {game.name: game for game in games}


def find_game(name: str) -> Game:
    """Look a game up by name: "MsPacman", also written "mspacman" or "ms_pacman".

    Raises:
        ValueError: If there is no such game; the message names the nearest.
    """
    by_plain_name = {_plain(game.name): game for game in all_games().values()}
    game = by_plain_name.get(_plain(name))
    if game is not None:
        return game
    # What Gymnasium writes around the game's name: ALE/Pong-v5, PongNoFrameskip-v4.
    bare = re.sub(r"^ale/|(-?ram)?(noframeskip|deterministic)?-v[0-9]+$", "", _plain(name))
    nearest = difflib.get_close_matches(bare, by_plain_name, n=1, cutoff=0.5)
    if _plain(name) in map(_plain, _MULTI_PLAYER_ONLY):
        raise ValueError(
            f"{name} is for several players only, and this is for one; `train.py --list-games` "
            "lists what is."
        )
    hint = f" Did you mean {by_plain_name[nearest[0]].name}?" if nearest else ""
    raise ValueError(f"Unknown game {name!r}.{hint} `train.py --list-games` lists them.")


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


@cache
def _load_scores() -> dict[str, tuple[float, float]]:
    """Random and human mean returns by ROM id; the head of the file names their source."""
    with (Path(__file__).parent / "atari57_scores.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            row["game"]: (float(row["random_return"]), float(row["human_return"])) for row in rows
        }
