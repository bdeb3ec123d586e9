"""Models of SB3 on the disk, intact and altered."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from tests.random_frames import RandomFrames

FEATURES = 8
SMALL: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": FEATURES}}


@pytest.fixture(scope="package")
def a2c() -> A2C:
    kwargs = {**SMALL, "optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
    model = A2C("CnnPolicy", RandomFrames(1), n_steps=2, seed=0, device="cpu", policy_kwargs=kwargs)
    return model.learn(4)


@pytest.fixture(scope="package")
def dqn() -> DQN:
    options: dict[str, Any] = {"buffer_size": 20, "batch_size": 2, "learning_starts": 1}
    model = DQN("CnnPolicy", RandomFrames(1), seed=0, device="cpu", policy_kwargs=SMALL, **options)
    return model.learn(4)


@pytest.fixture(scope="package")
def foreign(a2c, tmp_path_factory) -> Path:
    """What somebody else's plain SB3 saved: no config, no checksum."""
    path = tmp_path_factory.mktemp("foreign") / "model.zip"
    a2c.save(path)
    return Path(path)


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def forge(foreign, tmp_path) -> Callable[..., Path]:
    """Writes the foreign model with other members."""

    def forge(
        changes: Mapping[str, bytes | None],
        alter: Callable[[zipfile.ZipInfo], None] | None = None,
        compression: int = zipfile.ZIP_STORED,
    ) -> Path:
        """None removes a member; `alter` changes what the directory says of the last one."""
        members = {
            name: content for name, content in read_members(foreign).items() if name not in changes
        }
        path = Path(tmp_path / "m.zip")
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in (members | dict(changes)).items():
                if content is not None:
                    archive.writestr(name, content)
            if alter:
                alter(archive.infolist()[-1])
        return path

    return forge
