"""Where the fast path of A2C and DQN applies, and what surrounds it in both.

The fast path computes one network: SB3's own policies on a `NatureCoordCNN` (`CachedNetwork`).
Every other agent acts and learns by SB3's own methods, with the same results as there.
"""

from typing import Any, Self

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from agents.algorithms.cached_network import DTYPES, CachedNetwork, Precision
from policies.coordconv import CoordConv2d
from policies.extractors import NatureCoordCNN
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d

_CONVOLUTIONS = (nn.Conv2d, CoordConv2d, RandomChannelConv2d, BiasMapConv2d)
_LAYERS = [*3 * [nn.Conv2d, nn.ReLU], nn.Flatten, nn.Linear, nn.ReLU]


class FastPath(BaseAlgorithm):
    """What A2C and DQN share: whether their fast path applies, and what is kept for it.

    Args:
        precision: Arithmetic of the fast path: "fp32", or "bf16" with float32 weights and heads.
        arguments: As for SB3's algorithm.

    Raises:
        ValueError: For "bf16" where the fast path does not apply.
    """

    _network: CachedNetwork | None = None
    _kept: tuple[str, ...] = ("_network",)  # attributes of the fast path, never saved or copied

    def __init__(self, *arguments: Any, precision: Precision = "fp32", **keywords: Any) -> None:
        self.precision: Precision = precision
        super().__init__(*arguments, **keywords)

    def find_obstacle(self) -> str | None:
        """Name what the fast path cannot do; None if it applies."""
        raise NotImplementedError

    def _make_networks(self) -> None:
        """Make what the fast path needs, from the policy as it is."""
        raise NotImplementedError

    def _extractor(self) -> nn.Module:
        """The network's features extractor, as it is now."""
        raise NotImplementedError

    def _setup_model(self) -> None:
        super()._setup_model()  # type: ignore[safe-super]
        self._fast_path_applies()

    def _fast_path_applies(self) -> bool:
        if self.precision not in DTYPES:
            raise ValueError(f"`precision` must be one of fp32, bf16, got {self.precision!r}.")
        obstacle = self.find_obstacle()
        if obstacle is not None and self.precision != "fp32":
            raise ValueError(
                f"`precision` {self.precision!r} is not possible with {obstacle}; use 'fp32'."
            )
        return obstacle is None

    def _is_fast(self) -> bool:
        """Whether to take the fast path now, which is then ready for the layers as they are."""
        if self._network is None or not self._network.is_of(self._extractor()):
            self._forget()
            if self._fast_path_applies():
                self._make_networks()
        return self._network is not None

    def _forget(self) -> None:
        for name in self._kept:
            setattr(self, name, None)

    def learn(self, *arguments: Any, **keywords: Any) -> Self:
        """Learn as SB3 does; whatever was changed in the agent before is heeded."""
        self._forget()
        if self._fast_path_applies():
            self._lay_out(torch.channels_last)
        elif self.verbose > 0:
            print(f"SB3's own forward and backward passes are used: {self.find_obstacle()}.")
        try:
            return super().learn(*arguments, **keywords)  # type: ignore[safe-super]
        finally:
            self._forget()
            # As SB3's, whose methods (`parameters_to_vector`) know no other layout.
            self._lay_out(torch.contiguous_format)

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Bring the weights, their gradients and their optimiser's state into a memory layout."""
        states = self.policy.optimizer.state if self.policy.optimizer is not None else {}
        for parameter in self.policy.parameters():
            for values in (parameter, parameter.grad, *states.get(parameter, {}).values()):
                if isinstance(values, Tensor) and values.dim() == 4:
                    values.data = values.data.contiguous(memory_format=memory_format)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self._kept]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict.fromkeys(self._kept)


def find_obstacle_in(network: BaseModel, extractor: nn.Module) -> str | None:
    """Name what `CachedNetwork` cannot compute in a policy's or Q-network's features, or None."""
    if type(extractor) is not NatureCoordCNN:
        return f"`features_extractor_class` {type(extractor).__name__}"
    if not network.normalize_images:
        return "`normalize_images` False"
    if not is_image_space(network.observation_space):
        return f"`observation_space` {network.observation_space}"
    if [*map(_kind, (*extractor.cnn, *extractor.linear))] != _LAYERS:
        return "a layer that was replaced in the features extractor"
    for module in (network, *extractor.modules()):
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(hooks) or any(callable(getattr(type(module), name, None)) for name in vars(module)):
            return f"a hook or a method that was set on a {type(module).__name__}"
    return None


def _kind(layer: nn.Module) -> type:
    """Its class; one for all convolutions that are known, and another for those that are not."""
    if not isinstance(layer, nn.Conv2d):
        return type(layer)
    settings = (layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    is_known = type(layer) in _CONVOLUTIONS and settings == ((0, 0), (1, 1), 1, "zeros")
    return nn.Conv2d if is_known else type(None)
