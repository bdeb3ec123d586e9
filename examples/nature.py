"""Two variants of the Nature CNN, made of SB3's: pooled over the image, and with layer norm.

python train.py --game Pong --extractor examples.nature:PooledNatureCNN
"""

from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn


class PooledNatureCNN(NatureCNN):
    """The linear layer sees each filter's mean over the image, not its value at every place.

    The idea is that of Impoola (arXiv 2503.05546), where it is tried on the network of IMPALA. The
    convolutions start as NatureCNN's of the same seed.

    Args:
        observation_space: Box of images [C, H, W].
        features_dim: Number of features that the extractor returns.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512) -> None:
        super().__init__(observation_space, features_dim)
        *convolutions, _ = self.cnn  # all but nn.Flatten
        self.cnn = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(64, features_dim), nn.ReLU())


class LayerNormNatureCNN(NatureCNN):
    """Each layer's output is normalised over all of an image before its ReLU.

    Layer norm is of Ba et al., arXiv 1607.06450; for Q-learning with such a network see Gallici et
    al., "Simplifying Deep Temporal Difference Learning", ICLR 2025, arXiv 2407.04811.

    Args:
        observation_space: Box of images [C, H, W].
        features_dim: Number of features that the extractor returns.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512) -> None:
        super().__init__(observation_space, features_dim)
        first, relu, second, _, third, _, flatten = self.cnn
        # A group norm of one group: `nn.LayerNorm` over an image would learn a weight for every
        # place, and so tell the network where it is.
        norms = [nn.GroupNorm(1, channels) for channels in (32, 64, 64)]
        self.cnn = nn.Sequential(
            *(first, norms[0], relu, second, norms[1], relu, third, norms[2], relu, flatten)
        )
        self.linear = nn.Sequential(self.linear[0], nn.LayerNorm(features_dim), relu)
