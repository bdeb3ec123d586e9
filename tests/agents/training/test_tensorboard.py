from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import HParam, Image, Logger, TensorBoardOutputFormat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.training.tensorboard import EventFile
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


def test_what_cannot_be_shown_is_our_own_mistake(tmp_path):
    file = EventFile(tmp_path)
    with pytest.raises(TypeError, match=r"^a: no way to show a list$"):
        file.write({"a": [1]}, {"a": ()})
    file.close()


def test_a_folder_that_is_not_there(tmp_path):
    message = rf"^{tmp_path}/no/events\S+ cannot be written \(No such file or directory\); create "
    with pytest.raises(OSError, match=message + r"its directory first\.$"):
        EventFile(tmp_path / "no")


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
