from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from stable_baselines3.common.logger import HParam, Image, Logger, TensorBoardOutputFormat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from agents.training.callbacks import TensorBoardRows
from agents.training.tensorboard import GAME_CHARTS, EventFile, lay_out_charts
from configs.run_config import make_config
from tests.refusals import refusal


def log_rows(logger: Logger) -> None:
    logger.record("hparams", HParam({"algo": "a2c", "gamma": 0.99}, {"return": 0.0}))
    logger.dump(0)
    for step in (5, 10):
        logger.record("time/fps", step * 3)
        logger.record("train/loss", np.float32(0.1) * step)
        logger.record("train/n_updates", 1, exclude="tensorboard")
        picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
        logger.record("coordinates/map", Image(picture, "HW"))
        logger.dump(step)
    logger.close()


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    return (
        tags["scalars"],
        [[(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]],
        [[(e.step, e.encoded_image_string) for e in events.Images(t)] for t in tags["images"]],
    )


def hyperparameters(folder: Path) -> Any:
    """Without the time of the start, which they contain."""
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    return {tag: value for tag, value in content.items() if "start" not in tag}


def test_writes_what_sb3_writes(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    log_rows(Logger(str(ours), [EventFile(ours)]))
    log_rows(Logger(str(theirs), [TensorBoardOutputFormat(str(theirs))]))
    assert read(ours) == read(theirs)
    assert read(ours)[1] == [[(5, 15.0), (10, 30.0)], [(5, 0.5), (10, 1.0)]]
    assert hyperparameters(ours) == hyperparameters(theirs) != {}


def test_a_row_is_in_the_file_when_it_was_written(tmp_path):
    file = EventFile(tmp_path)
    size = file.path.stat().st_size
    file.write({"a": 1.0}, {"a": ()}, 3)
    assert file.path.stat().st_size > size
    assert read(tmp_path)[1] == [[(3, 1.0)]]
    file.close()


def test_a_full_disk_is_named_and_leaves_no_thread(tmp_path):
    file = EventFile(tmp_path)
    file._file.close()
    file._file = Path("/dev/full").open("ab")  # noqa: SIM115
    message = f"{file.path} cannot be written (No space left on device); free some space."
    assert refusal(file.write, {"a": 1.0}, {"a": ()}, 3, error=OSError) == message
    assert refusal(file.close, error=OSError) == message


def test_an_open_page_forgets_what_a_resumed_run_takes_back(tmp_path):
    """TensorBoard's loader in Python, which reads what is appended and never starts again."""
    page = EventAccumulator(str(tmp_path))
    first = EventFile(tmp_path)
    for step in (5, 10, 15):
        first.write({"a": float(step)}, {"a": ()}, step)
    first.close()
    first.path.rename(tmp_path / "events.out.tfevents.0000000001.1")  # some seconds ago
    page.Reload()
    assert [event.step for event in page.Scalars("a")] == [5, 10, 15]
    resumed = EventFile(tmp_path, first_step=11)
    resumed.write({"a": 12.0}, {"a": ()}, 12)
    resumed.close()
    page.Reload()
    assert [event.step for event in page.Scalars("a")] == [5, 10, 12]


def test_games_are_shown_one_by_one_but_no_more_than_10_000(tmp_path):
    """25_000 agent steps in 10_000 parts are parts of 3; every step ends two games."""
    config = make_config("Pong", "a2c", {"total_agent_steps": 25_000})
    shown: list[tuple[float, int]] = []
    events: Any = SimpleNamespace(
        write_values=lambda values, step: shown.append((values["return_per_game/Pong"], step))
    )
    rows = TensorBoardRows(config, None, events)  # type: ignore[arg-type]
    for step in range(1, 25_001):
        if step == 11:  # as after a resume
            rows = TensorBoardRows(config, None, events, **rows.get_state())  # type: ignore[arg-type]
        rows.num_timesteps = step
        rows.locals = {"infos": [{}, {"episode": {"r": step}}, {"episode": {"r": -1}}]}
        rows._on_step()
    assert shown[:5] == [(3, 3), (6, 6), (9, 9), (12, 12), (15, 15)]
    assert len(shown) == 8_333


def test_a_new_run_brings_its_config_and_its_chart(tmp_path):
    config = make_config("Pong", "a2c", {})
    file = EventFile(tmp_path)
    file.write_values(
        {"config": config.to_json(), "layout": lay_out_charts(GAME_CHARTS, ["A", "B"])}, 0
    )
    file.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (text,) = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val == [config.to_json().encode()]
    (layout,) = events.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(layout.tensor_proto.string_val[0]).category
    assert category.title == "Every run"
    assert [(chart.title, list(chart.multiline.tag)) for chart in category.chart] == [
        ("A", ["^return/A$"]),
        ("B", ["^return/B$"]),
    ]
