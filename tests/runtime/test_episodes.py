"""Tables of finished games, whoever wrote them."""

import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.episodes import EPISODE_COLUMNS, moving_means, read_episodes
from tests.refusals import refusal

HEADER = ",".join(EPISODE_COLUMNS) + "\n"


def test_means_of_the_games_before():
    assert moving_means([1, 2, 6, 1], 3).tolist() == [3, 3]
    assert moving_means([1, 2], 3).size == 0


@given(st.text() | st.text('0123456789,.-einfa\n"').map(HEADER.__add__))
def test_a_table_of_games_is_read_or_refused_with_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "episodes.csv"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        episodes = read_episodes(path)
    except ValueError:
        assert refusal(read_episodes, path).startswith(f"{path}: ")
    else:
        assert len(episodes.agent_steps) == len(episodes.returns) == len(episodes.seconds)
        assert np.isfinite(episodes.returns).all()


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "\0",
        "é",
        "{columns}\n5,0,1,1,1,0,0.1\n4,0,1,1,1,0,0.1\n",  # steps run backwards
        *(
            f"{{columns}}\n{step},0,{value},1,1,0,0.1\n"
            for step, value in ((5, "nan"), (5, "-inf"), (5, "1e308"), (2**63, 1))
        ),
        "{columns}\n5,0\n",
        "{columns}\n0,0,1,1,1,0,0.1\n",
    ],
)
def test_damaged_tables_of_games_are_refused(tmp_path, text):
    path = tmp_path / "episodes.csv"
    path.write_text(text.replace("{columns}\n", HEADER) + "\n", encoding="utf-8")
    others = text in ("a,b\n1,2\n", "\0")
    fault = "its columns are not those of this release" if others else "not a table of games"
    assert refusal(read_episodes, path) == f"{path}: {fault}; restore the file."


@pytest.mark.parametrize(
    "pack",
    [
        lambda table: lzma.compress(table) + b"\0" * 4,
        lambda table: lzma.compress(table) * 2,
        lambda table: lzma.compress(table, lzma.FORMAT_ALONE),
        lambda table: lzma.compress(table + b"1,,,,,,\n" * (8 << 20), preset=0),  # over 64 MiB
    ],
)
def test_packed_games_are_one_stream_of_limited_length(tmp_path, pack):
    (tmp_path / "episodes.csv.xz").write_bytes(pack(HEADER.encode()))
    line = refusal(read_episodes, tmp_path / "episodes.csv")
    assert line == f"{tmp_path / 'episodes.csv.xz'}: not a table of games; restore the file."
