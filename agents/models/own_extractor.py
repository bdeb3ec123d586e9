"""Features extractors of users' own, imported when a user names one and never because a file does.

`load_extractor` is for commands, with what their user typed. All else asks `find_extractor`, which
imports nothing: a stranger's run or model can name any module, and none of it is run.
"""

import hashlib
import importlib
import inspect
import io
import sys
import tokenize
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from operator import index
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from agents.models.model_file import load_state_dict
from agents.models.policy_state import load_policy_state
from configs.run_config import CONVOLUTIONS, NetworkSettings
from configs.settings import describe_unknown
from envs.emulated_game import FRAME_SIZE
from envs.frame_stack import STACKED_FRAMES
from policies.extractors import NatureCoordCNN
from runtime.command_line import one_line
from runtime.provenance import strip_comments

OBSERVATIONS = spaces.Box(0, 255, (STACKED_FRAMES, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
_LIBRARIES = {"abc", "builtins", "stable_baselines3", "torch", "typing"}
_AUTOGRAD = Path(torch.autograd.__file__).parent
_HASH_DIGITS = 12
_MOST_LETTERS = 200  # of what an error of the user's module says


@dataclass(frozen=True)
class _Loaded:
    kind: type[BaseFeaturesExtractor]
    files: frozenset[str]  # with its source and that of its base classes
    source: str  # their hash


_loaded: dict[str, _Loaded] = {}  # by `module:Class`


def load_extractor(network: NetworkSettings) -> NetworkSettings:
    """Import the extractor that a user has named, try it, and add the hash of its source.

    It is looked for on `sys.path` and in the current directory, and tried: with one observation,
    with two, forward and backward, and whether its state can be saved and read again. Of other
    networks nothing is done.

    Raises:
        ValueError: If there is none, it is none, it does not work, or it is not of the source that
            `network` is of; one line.
    """
    name = network.extractor
    if not name:
        return network
    if name not in _loaded:
        _loaded[name] = _import(name)
    loaded = _loaded[name]
    if network.extractor_source not in ("", loaded.source):
        raise ValueError(
            f"{name} was changed: its source is version {loaded.source} and was "
            f"{network.extractor_source}; restore it, or train the changed one below another "
            "--runs folder."
        )
    _try(name, loaded, network)
    return network.replace(extractor_source=loaded.source)


def find_extractor(network: NetworkSettings) -> type[BaseFeaturesExtractor]:
    """The class of a user's own extractor; ValueError if it was not loaded before."""
    loaded = _loaded.get(network.extractor)
    if loaded is None or loaded.source != network.extractor_source:
        raise ValueError(
            f"the network is {network.extractor}, code that is run only if you name it: add "
            f"--extractor {network.extractor}."
        )
    return loaded.kind


def find_fault(error: BaseException, network: NetworkSettings) -> str | None:
    """The line that tells of an error in the code of a user's own extractor; None of others.

    Those of a backward pass are raised in torch, and name no line of that code.
    """
    loaded = _loaded.get(network.extractor)
    frames = traceback.extract_tb(error.__traceback__)
    is_backward = bool(frames) and Path(frames[-1].filename).is_relative_to(_AUTOGRAD)
    if loaded is None or not (is_backward or _find_place(error, loaded.files)):
        return None
    return _tell(network.extractor, "failed", error, loaded.files)


def count_own_cost(network: NetworkSettings) -> dict[str, int]:
    """What `count_cost` gives for a user's own extractor, which was loaded before."""
    return count_cost(find_extractor(network)(OBSERVATIONS, **network.extractor_arguments))


def count_cost(extractor: BaseFeaturesExtractor) -> dict[str, int]:
    """An extractor's parameters, and its multiply-adds for one observation.

    Counted are those that torch's `FlopCounterMode` knows: convolutions and products of matrices.
    """
    # With gradients: without, torch's transformers take a way that the counter does not see.
    with FlopCounterMode(display=False) as counter:
        extractor.eval()(torch.zeros(1, *OBSERVATIONS.shape))
    parameters = sum(weight.numel() for weight in extractor.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def _import(name: str) -> _Loaded:
    module_name, _, class_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: what is there hides none of this project's modules
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(
                f"{name}: there is no module {missing} in the current directory or on Python's "
                "path; go to its folder, or set PYTHONPATH."
            ) from None
        raise ValueError(_tell(name, "could not be imported", error, None)) from error
    kind = getattr(module, class_name, None)
    if kind is None:
        there = [key for key, value in vars(module).items() if _is_extractor(value)]
        unknown = describe_unknown(class_name, there, f"class of {module_name}")
        raise ValueError(
            f"{name}: {unknown}" if there else f"{name}: {module_name} has no extractor."
        )
    if not _is_extractor(kind):
        raise ValueError(
            f"{name} must be a subclass of BaseFeaturesExtractor of stable_baselines3, got "
            f"{one_line(ValueError(repr(kind))):.60}."
        )
    bases = {base.__module__ for base in kind.__mro__}
    modules = {base for base in bases if base.partition(".")[0] not in _LIBRARIES} | {module_name}
    # By the modules' names: where their files are is another matter on another machine.
    files, digest = set[str](), hashlib.sha256()
    for each in sorted(modules):
        try:
            file = inspect.getsourcefile(sys.modules[each]) or ""
            with tokenize.open(file) as stream:
                source = stream.read()
        except (OSError, TypeError, KeyError, SyntaxError, UnicodeDecodeError):
            raise ValueError(f"{name}: {each} has no Python source to know it again by.") from None
        files.add(file)
        digest.update(strip_comments(source).encode() + b"\0")
    return _Loaded(kind, frozenset(files), digest.hexdigest()[:_HASH_DIGITS])


def _is_extractor(value: object) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, BaseFeaturesExtractor)
        and value is not BaseFeaturesExtractor
    )


def _try(name: str, loaded: _Loaded, network: NetworkSettings) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            extractor = loaded.kind(OBSERVATIONS, **network.extractor_arguments)
            if any(map(is_lazy, extractor.parameters())):
                raise TypeError("SB3 cannot initialise lazy layers; give them their sizes")
            if isinstance(extractor, NatureCoordCNN):
                _check_layers(extractor)
            wanted = index(extractor.features_dim)
            alone = extractor.eval()(torch.rand(1, *OBSERVATIONS.shape))
            features = extractor.train()(torch.rand(2, *OBSERVATIONS.shape))
            if isinstance(features, Tensor) and features.requires_grad:
                features.sum().backward()  # type: ignore[no-untyped-call]
    except (Exception, SystemExit) as error:
        raise ValueError(_tell(name, "failed when tried", error, loaded.files)) from error
    for count, found in ((2, features), (1, alone)):
        _check_features(name, found, count, wanted)
    try:
        with torch.random.fork_rng(devices=[]):
            _save_and_read_again(loaded.kind, network)
    except (Exception, SystemExit) as error:
        what = "failed in an agent that is saved and read again"
        raise ValueError(_tell(name, what, error, loaded.files)) from error


def _check_layers(extractor: NatureCoordCNN) -> None:
    """Refuse by a TypeError a subclass whose layers are not where those that know positions are."""
    if not isinstance(extractor.cnn, nn.Sequential) or len(extractor.cnn) < 2 * CONVOLUTIONS - 1:
        raise TypeError(
            f"`cnn` of a NatureCoordCNN must stay an nn.Sequential with {CONVOLUTIONS} convolutions"
        )


def _check_features(name: str, features: object, count: int, wanted: int) -> None:
    """Refuse what an extractor must not return of so many observations."""
    if not isinstance(features, Tensor) or features.dtype != torch.float32:
        got = f"{features.dtype}" if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{name} must return a tensor of torch.float32, got {got}.")
    if features.shape != (count, wanted):
        raise ValueError(
            f"{name} must return its features_dim, {wanted} features, of each observation, got "
            f"shape {tuple(features.shape)} of {count}."
        )
    if not features.isfinite().all():
        raise ValueError(f"{name} must return finite features, got NaN or infinity.")


def _save_and_read_again(kind: type[BaseFeaturesExtractor], network: NetworkSettings) -> None:
    """Put the state of a policy with such a network through a file, as a checkpoint does."""
    policy = ActorCriticCnnPolicy(
        OBSERVATIONS,
        spaces.Discrete(2),
        lambda _: 0.0,  # the learning rate
        net_arch=[],
        features_extractor_class=kind,
        features_extractor_kwargs=network.extractor_arguments,
    )
    file = io.BytesIO()
    torch.save(policy.state_dict(), file)
    state = load_state_dict(file.getvalue(), "policy.pth")
    load_policy_state(policy, state, source="policy.pth")


def _tell(name: str, what: str, error: BaseException, files: Collection[str] | None) -> str:
    return (
        f"{name} {what}: {type(error).__name__}: {one_line(error):.{_MOST_LETTERS}}"
        f"{_find_place(error, files)}"
    )


def _find_place(error: BaseException, files: Collection[str] | None) -> str:
    """Where in some files, or in any, an error was raised; empty if it was not."""
    frames = traceback.extract_tb(error.__traceback__)
    if files is None:  # the import system's own frames tell nothing
        files = {frame.filename for frame in frames} - {importlib.__file__, __file__}
        files = {file for file in files if not file.startswith("<")}
    places = [frame for frame in frames if frame.filename in files]
    return f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
