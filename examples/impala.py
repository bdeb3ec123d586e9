"""The convolutional network of IMPALA, without its LSTM.

    python train.py --game Pong --extractor examples.impala:ImpalaCNN

Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
Architectures", ICML 2018, arXiv 1802.01561, figure 3, right.
"""

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions, added to what they see."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return what has the shape of `images`, [B, C, H, W]."""
        more: Tensor = self.layers(images)
        return images + more


class ImpalaCNN(BaseFeaturesExtractor):
    """Three times a convolution, a pooling that halves rows and columns, and two residual blocks.

    Args:
        observation_space: Box of images [C, H, W].
        features_dim: Number of features that the extractor returns.
        width: Multiplies the channels, which are 16, 32 and 32.
    """

    def __init__(
        self, observation_space: spaces.Box, features_dim: int = 256, width: int = 1
    ) -> None:
        super().__init__(observation_space, features_dim)
        channels, rows, columns = observation_space.shape
        layers: list[nn.Module] = []
        for filters in (16 * width, 32 * width, 32 * width):
            layers += [
                nn.Conv2d(channels, filters, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(filters),
                ResidualBlock(filters),
            ]
            channels, rows, columns = filters, (rows + 1) // 2, (columns + 1) // 2
        self.layers = nn.Sequential(
            *layers,
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * rows * columns, features_dim),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, F] of images float32 [B, C, H, W]."""
        features: Tensor = self.layers(images)
        return features
