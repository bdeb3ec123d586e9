"""A module with networks of a user's own, as tests write it into the current folder."""

import sys

import pytest

from agents.models import own_extractor

NETS = '''
import numpy as np
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Small(BaseFeaturesExtractor):
    """Pixels on average, then features."""

    def __init__(self, observation_space, features_dim: int = 8):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), nn.Linear(4 * 49, features_dim))

    def forward(self, images):
        return self.net(images)  # images: float32 [B, 4, 84, 84] in [0, 1]


class WrongSize(Small):
    def forward(self, images):
        return self.net(images)[:, :5]


class WrongType(Small):
    def forward(self, images):
        return self.net(images).double()


class NoTensor(Small):
    def forward(self, images):
        return None


class RaisesWhenMade(Small):
    def __init__(self, observation_space):
        raise KeyError("two\\nlines")


class RaisesForward(Small):
    def forward(self, images):
        return images @ images.flatten(1)


class RaisesWhenTraining(Small):
    def forward(self, images):
        assert not self.training, "no"
        return self.net(images)


class Leaves(Small):
    def forward(self, images):
        raise SystemExit("bye")


class Lazy(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.net[2] = nn.LazyLinear(8)


class CutsDown(Small):
    def __init__(self, observation_space, features_dim):
        super().__init__(observation_space, int(features_dim))
        self._features_dim = features_dim


class NotOne(nn.Module):
    pass


anything = 3


class Draws(Small):
    """With state that changes while it learns, and draws of its own."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.net = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.1), *self.net)

    def forward(self, images):
        return self.net(images) + np.random.uniform(0, 0.1)


class FailsLater(Small):
    def forward(self, images):
        if len(images) == 10:  # what A2C learns from here
            raise ZeroDivisionError("later")
        return self.net(images)


class Diverges(Small):
    def forward(self, images):
        return self.net(images) * (float("nan") if len(images) == 10 else 1.0)


class Masks(Small):
    """With a constant that is not finite, as an attention mask is."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))


class Squeezes(Small):
    def forward(self, images):
        return self.net(images).squeeze()


class NotFinite(Small):
    def forward(self, images):
        return self.net(images) * float("inf")


class Complex(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.waves = nn.Parameter(torch.zeros(3, dtype=torch.cfloat))


class Deep(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.scales = nn.ParameterList([torch.ones(1) for _ in range(300)])


class Expanded(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.register_buffer("ones", torch.ones(1).expand(4))


class HalfPrecision(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.low = nn.Linear(8, 8).bfloat16()

    def forward(self, images):
        return self.low(self.net(images).bfloat16()).float()


class FailsBackward(Small):
    def forward(self, images):
        features = self.net(images).exp()
        if len(images) == 10:  # what A2C learns from here
            return features + features.detach().zero_().sum()
        return features


class Attends(Small):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, images):
        return self.layer(self.net(images)[:, None])[:, 0]


from policies.extractors import NatureCoordCNN


class Wrapped(NatureCoordCNN):
    def __init__(self, observation_space):
        super().__init__(observation_space, coord_layers=[0])
        self.cnn = nn.ModuleList(self.cnn)

    def forward(self, images):
        for layer in self.cnn:
            images = layer(images)
        return self.linear(images)


class OneConvolution(NatureCoordCNN):
    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=8, coord_layers=[0])
        self.cnn = nn.Sequential(self.cnn[0], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(32, 8)


class Normalised(NatureCoordCNN):
    """This project's network with a layer more."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=8, coord_layers=[0])
        self.cnn.insert(1, nn.GroupNorm(1, 32))
'''


def line_of(text: str) -> int:
    """The line of the module that a text is in, which must be one."""
    (number,) = (n for n, line in enumerate(NETS.splitlines(), start=1) if text in line)
    return number


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load nothing of what was loaded, as in a process of its own."""
    monkeypatch.setattr(own_extractor, "_loaded", {})
    for name in ("mynets", "derived", "broken", "needs", "leaves"):
        monkeypatch.delitem(sys.modules, name, raising=False)
