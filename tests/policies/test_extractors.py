from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from policies.coordconv import CoordConv2d
from policies.extractors import NatureCoordCNN, count_live_filters
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d
from tests.random_frames import RandomFrames
from tests.refusals import refusal

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ARMS: list[dict[str, Any]] = [
    {},
    {"coord_layers": (0,)},
    {"coord_layers": [2, 0, 1]},
    {"coord_layers": (0,), "with_radius": True},
    {"coord_layers": (1, 2), "with_radius": True, "coord_init": "zero"},
    {"coord_layers": (0, 1, 2), "position": "bias-map"},
    {"coord_layers": (0, 1, 2), "position": "random-channels"},
    {"coord_layers": (0,), "position": "random-channels", "coord_init": "zero"},
]
WITH_RADIUS, BIAS_MAPS, RANDOM_CHANNELS = ARMS[3], ARMS[5], ARMS[6]
all_arms = pytest.mark.parametrize("arm", ARMS, ids=str)


def build(arm: dict[str, Any], seed: int = 0) -> NatureCoordCNN:
    torch.manual_seed(seed)
    return NatureCoordCNN(IMAGES, 16, **arm)


def build_plain(seed: int = 0) -> NatureCNN:
    torch.manual_seed(seed)
    return NatureCNN(IMAGES, 16)


# As SB3 initialises the layers of a policy.
initialise_orthogonally = partial(ActorCriticPolicy.init_weights, gain=2**0.5)


def assert_shared_weights_equal(network: nn.Module, plain: nn.Module) -> None:
    """Compare all weights of a plain network, bit for bit, with those that another shares."""
    states = network.state_dict()
    for name, values in plain.state_dict().items():
        shared = states[name]
        if values.dim() == 4:
            shared = shared[:, : values.shape[1]]
        assert torch.equal(shared, values), name


def draw_images(batch_size: int = 3) -> Tensor:
    return torch.rand(batch_size, 4, 84, 84, generator=torch.Generator().manual_seed(5))


# Arms are paired


@pytest.mark.parametrize("initialised_by_sb3", [False, True])
@pytest.mark.parametrize(
    "arm",
    [
        {"coord_layers": (0, 1, 2), "with_radius": True, "coord_init": "zero"},
        {"coord_layers": (0, 1, 2), "position": "random-channels", "coord_init": "zero"},
        {"coord_layers": (0, 1, 2), "position": "bias-map"},
    ],
    ids=str,
)
def test_with_zero_arms_start_as_the_same_function(arm, initialised_by_sb3):
    extractor, plain = build(arm), build_plain()
    if initialised_by_sb3:
        for network in (extractor, plain):
            torch.manual_seed(1)
            network.apply(initialise_orthogonally)
    torch.testing.assert_close(extractor(draw_images()), plain(draw_images()))


def test_zero_follows_a_reinitialisation_of_trained_weights():
    for position in ("coordinates", "random-channels", "bias-map"):
        extractor = build({"coord_layers": (0,), "position": position, "coord_init": "zero"})
        for parameter in extractor.parameters():
            parameter.data += 1
        extractor.apply(initialise_orthogonally)
        assert extractor.position_layers()[0].coordinate_weight_share() == 0


def test_coordinate_weights_follow_the_scale_of_the_initialisation():
    extractor = build({"coord_layers": (0,)})
    extractor.apply(initialise_orthogonally)
    weight = extractor.position_layers()[0].weight.detach()
    ratio = weight[:, 4:].square().mean().sqrt() / weight[:, :4].square().mean().sqrt()
    assert ratio.item() == pytest.approx(1, rel=0.03)  # 4096 draws: standard error 0.7 %


def test_coordinate_weights_depend_on_the_seed_and_the_layer_alone():
    def draw_signs(
        coord_layers: tuple[int, ...], index: int, seed: int = 0, position: str = "coordinates"
    ) -> Tensor:
        extractor = build({"coord_layers": coord_layers, "position": position}, seed)
        layer = extractor.apply(initialise_orthogonally).position_layers()[index]
        return layer.weight[:, layer.in_channels :].flatten()[:64].sign()

    expected = draw_signs((1,), 1)
    assert torch.equal(draw_signs((0, 1, 2), 1), expected)
    assert torch.equal(draw_signs((1,), 1, position="random-channels"), expected)
    assert not torch.equal(draw_signs((1,), 1, seed=1), expected)
    assert not torch.equal(draw_signs((1, 2), 2), expected)


def test_a_function_that_only_looks_changes_nothing():
    extractor = build({"coord_layers": (0, 2)})
    for parameter in extractor.parameters():
        parameter.data += 1
    before = {name: values.clone() for name, values in extractor.state_dict().items()}
    seen: list[type[nn.Module]] = []
    extractor.apply(lambda module: seen.append(type(module)))
    assert seen.count(nn.Conv2d) == 3
    assert NatureCoordCNN in seen
    for name, values in extractor.state_dict().items():
        assert torch.equal(values, before[name])


def test_a_function_that_fails_leaves_the_layers_in_place():
    extractor = build({"coord_layers": (0, 2)})
    layers = extractor.position_layers()

    def fail(module: nn.Module) -> None:
        raise RuntimeError(type(module).__name__)

    with pytest.raises(RuntimeError, match="Conv2d"):
        extractor.apply(fail)
    assert extractor.position_layers() == layers


# What the arms are


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ({"coord_layers": (0,)}, {0: (CoordConv2d, (32, 6, 8, 8))}),
        (
            {"coord_layers": np.array([0, 1]), "with_radius": True},
            {0: (CoordConv2d, (32, 7, 8, 8)), 1: (CoordConv2d, (64, 35, 4, 4))},
        ),
        ({"coord_layers": (2,), "with_radius": True}, {2: (CoordConv2d, (64, 67, 3, 3))}),
        (
            {"coord_layers": [2, 0], "position": "random-channels"},
            {0: (RandomChannelConv2d, (32, 6, 8, 8)), 2: (RandomChannelConv2d, (64, 66, 3, 3))},
        ),
        ({"coord_layers": (1,), "position": "bias-map"}, {1: (BiasMapConv2d, (64, 32, 4, 4))}),
    ],
    ids=str,
)
def test_layers_are_those_asked_for(arm, expected):
    layers = build(arm).position_layers()
    assert {
        index: (type(layer), tuple(layer.weight.shape)) for index, layer in layers.items()
    } == expected


def test_controls_fit_the_size_of_each_layers_input():
    maps = build({"coord_layers": (0, 1, 2), "position": "bias-map"}).position_layers()
    sizes = [layer.bias_map.shape for layer in maps.values() if isinstance(layer, BiasMapConv2d)]
    assert sizes == [(32, 20, 20), (64, 9, 9), (64, 7, 7)]


@all_arms
def test_images_of_another_shape_work_and_position_matters(arm):
    space = spaces.Box(0, 1, (3, 60, 92), np.float32)
    extractor = NatureCoordCNN(space, 16, normalized_image=True, **arm)
    assert extractor(torch.rand(2, 3, 60, 92)).shape == (2, 16)
    for layer in extractor.position_layers().values():
        layer.weight.data.zero_()
        assert layer.bias is not None
        layer.bias.data.zero_()
        layer.weight.data[:, layer.in_channels :] = 1
    for index, layer in extractor.position_layers().items():
        added = layer.coordinate_map(*extractor.input_sizes()[index])
        assert (added.std() > 0.1) == (arm.get("position") != "bias-map"), index


# With Stable-Baselines3


def build_agent(algorithm: type[A2C] | type[DQN], arm: dict[str, Any] | None) -> BaseAlgorithm:
    """Make an agent with an arm's network, or with SB3's own if None."""
    policy_kwargs: dict[str, Any] = {"net_arch": []}
    if arm is not None:
        policy_kwargs |= {
            "features_extractor_class": NatureCoordCNN,
            "features_extractor_kwargs": arm,
        }
    options: dict[str, Any] = {"n_steps": 4} if algorithm is A2C else {"buffer_size": 16}
    return algorithm(
        "CnnPolicy", RandomFrames(1), policy_kwargs=policy_kwargs, seed=3, device="cpu", **options
    )


def find_extractor(agent: BaseAlgorithm) -> NatureCoordCNN:
    return next(module for module in agent.policy.modules() if isinstance(module, NatureCoordCNN))


@pytest.mark.parametrize("algorithm", [A2C, DQN])
@all_arms
def test_agents_of_all_arms_start_paired(algorithm, arm):
    plain = build_agent(algorithm, None)
    state = torch.get_rng_state()
    agent = build_agent(algorithm, arm)
    assert torch.equal(torch.get_rng_state(), state)
    assert_shared_weights_equal(agent.policy, plain.policy)
    if not arm:
        assert list(agent.policy.state_dict()) == list(plain.policy.state_dict())


@pytest.mark.parametrize("algorithm", [A2C, DQN])
@pytest.mark.parametrize("arm", [WITH_RADIUS, BIAS_MAPS, RANDOM_CHANNELS], ids=str)
def test_agents_learn_and_survive_saving(algorithm, arm, tmp_path):
    agent = build_agent(algorithm, arm)
    if isinstance(agent, DQN):
        agent.learning_starts = 4
    before = {name: values.clone() for name, values in agent.policy.state_dict().items()}
    agent.learn(8)
    changed = [
        name for name, values in agent.policy.state_dict().items() if not values.equal(before[name])
    ]
    assert any(name.endswith("cnn.0.weight") for name in changed)
    assert not any(name.endswith("channels") for name in changed)
    agent.save(tmp_path / "agent.zip")
    loaded = algorithm.load(tmp_path / "agent.zip", device="cpu")
    for name, values in agent.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], values)
    with torch.no_grad():
        outputs = [find_extractor(model)(draw_images()) for model in (agent, loaded)]
    assert torch.equal(outputs[0], outputs[1])
    assert outputs[0].std() > 0


def test_a_plain_agent_learns_what_sb3_learns():
    arms: list[dict[str, Any] | None] = [None, {}]
    values = []
    for arm in arms:  # each seeds torch's generator anew
        agent = build_agent(A2C, arm)
        agent.learn(8)
        assert isinstance(agent.policy, ActorCriticPolicy)
        with torch.no_grad():
            values.append(agent.policy.predict_values(255 * draw_images()))
    # The last bits depend on where in memory the tensors lie, also between two agents of SB3's.
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)


# Errors


INDEX = "`coord_layers` must index the 3 convolutions (0-2), got {}."
NEEDS_LAYERS = "{} needs at least one convolution in `coord_layers`, got none."
POSITIONS = "`position` must be one of 'coordinates', 'bias-map', 'random-channels', got 'rows'."


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ((0, 3), {}, INDEX.format(3)),
        ((-1,), {}, INDEX.format(-1)),
        ((0, 1, 0), {}, "`coord_layers` must name each convolution once, got [0, 1, 0]."),
        ((0,), {"position": "rows"}, POSITIONS),
        ((0,), {"coord_init": "ones"}, "`coord_init` must be 'default' or 'zero', got 'ones'."),
        (
            (0,),
            {"position": "bias-map", "with_radius": True},
            "`with_radius` needs `position` 'coordinates', got 'bias-map'.",
        ),
        (np.array([], int), {"with_radius": True}, NEEDS_LAYERS.format("`with_radius`")),
        ((), {"with_radius": True}, NEEDS_LAYERS.format("`with_radius`")),
        ((), {"position": "bias-map"}, NEEDS_LAYERS.format("`position` 'bias-map'")),
    ],
)
def test_misuse_is_named(layers, options, message):
    assert refusal(NatureCoordCNN, IMAGES, coord_layers=layers, **options) == message


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(0, 1, (4, 84, 84))])
def test_spaces_that_are_not_images_are_refused_as_sb3_does(space):
    with pytest.raises(AssertionError, match="NatureCNN"):
        NatureCoordCNN(space, coord_layers=(0,))


def test_filters_that_are_at_zero_in_every_image_are_not_counted_as_live():
    extractor, images = build_plain(), torch.ones(2, 4, 84, 84)
    convolutions: Any = extractor.cnn[:5:2]
    with torch.no_grad():
        for index, layer in enumerate(convolutions):
            layer.weight.zero_()
            layer.bias.fill_(-1)
            layer.bias[: index + 1] = 1
        # Above zero only where the second image is dark.
        convolutions[0].bias[9], convolutions[0].weight[9] = 1, -1
    images[1, :, :8, :8] = 0
    assert count_live_filters(extractor, images) == [2, 2, 3]
