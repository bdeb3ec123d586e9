"""Features extractors of users' own: what is imported and when, and what is said of wrong ones."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.torch_layers import NatureCNN

from agents.algorithms.build import extractor_arguments
from agents.models import own_extractor
from agents.models.own_extractor import count_own_cost, find_extractor, find_fault, load_extractor
from configs.run_config import NetworkSettings, parse_own_arm
from tests.own_networks import NETS, forget, line_of
from tests.refusals import refusal, transcript

NATURE = "stable_baselines3.common.torch_layers:NatureCNN"


@pytest.fixture
def nets(nets) -> Path:
    """With further modules."""
    (nets / "derived.py").write_text("import mynets\nclass Larger(mynets.Small):\n    pass\n")
    (nets / "broken.py").write_text("x = = 1\n")
    (nets / "needs.py").write_text("\nimport not_there\n")
    (nets / "leaves.py").write_text("raise SystemExit(3)\n")
    return Path(nets)


def of(text: str, **changes: Any) -> NetworkSettings:
    return parse_own_arm(text).replace(**changes)


def test_one_that_was_named_is_found_and_goes_into_a_policy(nets):
    network = load_extractor(of("mynets:Small,features_dim=16"))
    kind = find_extractor(network)
    assert kind.__name__ == "Small"
    assert extractor_arguments(network) == {
        "features_extractor_class": kind,
        "features_extractor_kwargs": {"features_dim": 16},
        "net_arch": [],
    }
    assert count_own_cost(network) == {"parameters": 197 * 16, "multiply_adds": 196 * 16}


def test_the_cost_of_sb3s_nature_cnn():
    """By hand: output pixels times filters times weights of each, then the linear layer."""
    network = load_extractor(of(NATURE))
    assert find_extractor(network) is NatureCNN
    assert count_own_cost(network)["multiply_adds"] == 3_276_800 + 2_654_208 + 1_806_336 + 1_605_632


def test_a_changed_source_is_refused_and_comments_do_not_count(nets, monkeypatch):
    before = load_extractor(of("derived:Larger"))

    def load_anew() -> NetworkSettings:
        forget(monkeypatch)
        return load_extractor(before)

    (nets / "mynets.py").write_text(NETS.replace('"""Pixels on average', '"""Words'))
    assert load_anew() == before
    (nets / "mynets.py").write_text(NETS.replace("AvgPool2d", "MaxPool2d"))  # of its base class
    line = refusal(load_anew)
    now = own_extractor._loaded["derived:Larger"].source
    assert line == (
        f"derived:Larger was changed: its source is version {now} and was "
        f"{before.extractor_source}; restore it, or train the changed one below another --runs "
        "folder."
    )
    assert refusal(find_extractor, before).startswith("the network is derived:Larger, code")


WRONG = f"""
nets.no:X
    nets.no:X: there is no module nets in the current directory or on Python's path; go to its
    folder, or set PYTHONPATH.
mynets:Smal
    mynets:Smal: unknown class of mynets 'Smal'; did you mean `Small`?
math:X
    math:X: math has no extractor.
mynets:NotOne
    mynets:NotOne must be a subclass of BaseFeaturesExtractor of stable_baselines3, got <class
    'mynets.NotOne'>.
mynets:anything
    mynets:anything must be a subclass of BaseFeaturesExtractor of stable_baselines3, got 3.
broken:X
    broken:X could not be imported: SyntaxError: invalid syntax (broken.py, line 1)
needs:X
    needs:X could not be imported: ModuleNotFoundError: No module named 'not_there' (needs.py,
    line 2)
leaves:X
    leaves:X could not be imported: SystemExit: 3 (leaves.py, line 1)
mynets:Small,depth=3
    mynets:Small failed when tried: TypeError: Small.__init__() got an unexpected keyword argument
    'depth'
mynets:RaisesWhenMade
    mynets:RaisesWhenMade failed when tried: KeyError: 'two\\nlines' (mynets.py, line
    {line_of("raise KeyError")})
mynets:RaisesForward
    mynets:RaisesForward failed when tried: RuntimeError: mat1 and mat2 shapes cannot be multiplied
    (336x84 and 1x28224) (mynets.py, line {line_of("images @ ")})
mynets:RaisesWhenTraining
    mynets:RaisesWhenTraining failed when tried: AssertionError: no (mynets.py, line
    {line_of("assert not")})
mynets:CutsDown,features_dim=9e0
    mynets:CutsDown failed when tried: TypeError: 'float' object cannot be interpreted as an integer
mynets:Lazy
    mynets:Lazy failed when tried: TypeError: SB3 cannot initialise lazy layers; give them their
    sizes
mynets:Leaves
    mynets:Leaves failed when tried: SystemExit: bye (mynets.py, line {line_of("SystemExit")})
mynets:WrongSize
    mynets:WrongSize must return its features_dim, 8 features, of each observation, got shape (2, 5)
    of 2.
mynets:WrongType
    mynets:WrongType must return a tensor of torch.float32, got torch.float64.
mynets:NoTensor
    mynets:NoTensor must return a tensor of torch.float32, got NoneType.
mynets:Squeezes
    mynets:Squeezes must return its features_dim, 8 features, of each observation, got shape (8,)
    of 1.
mynets:NotFinite
    mynets:NotFinite must return finite features, got NaN or infinity.
mynets:Wrapped
    mynets:Wrapped failed when tried: TypeError: `cnn` of a NatureCoordCNN must stay an
    nn.Sequential with 3 convolutions
mynets:OneConvolution
    mynets:OneConvolution failed when tried: TypeError: `cnn` of a NatureCoordCNN must stay an
    nn.Sequential with 3 convolutions
mynets:Complex
    mynets:Complex failed in an agent that is saved and read again: ValueError: policy.pth cannot
    be loaded: its pickle names 'torch.ComplexFloatStorage', which no state dict needs; give an
    intact model saved by Stable-Baselines3.
mynets:Deep
    mynets:Deep failed in an agent that is saved and read again: ValueError: policy.pth is too
    large: member 'archive/data.pkl' has 97,844 bytes, more than the 65,536 that are read; give a
    smaller model.
mynets:Expanded
    mynets:Expanded failed in an agent that is saved and read again: RuntimeError: Error(s) in
    loading state_dict for ActorCriticCnnPolicy: While copying the parameter named
    "features_extractor.ones", whose dimensions in the model are torch.Size([4]) and whose
    dimensions in the chec
mynets:HalfPrecision
    mynets:HalfPrecision failed in an agent that is saved and read again: NotImplementedError:
    "geqrf_cpu" not implemented for 'BFloat16'
"""


def test_the_cost_of_attention_is_counted(nets):
    """196 x 8, then in the layer 8 x 24 in, 8 x 8 out, 8 x 16 and back."""
    network = load_extractor(of("mynets:Attends"))
    assert count_own_cost(network)["multiply_adds"] == 196 * 8 + 8 * 24 + 8 * 8 + 2 * 8 * 16


def test_what_is_not_finite_by_design_is_saved_and_read(nets):
    load_extractor(of("mynets:Masks"))


@pytest.mark.parametrize(("text", "message"), transcript(WRONG))
def test_wrong_ones_are_told_in_one_line(nets, text, message):
    assert refusal(load_extractor, of(text)) == message


def test_trying_one_leaves_torchs_generator_as_it_was(nets):
    torch.manual_seed(5)
    load_extractor(of("mynets:Small"))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_faults_while_training_are_told_from_this_projects_own(nets):
    network = load_extractor(of("mynets:RaisesWhenMade", extractor="mynets:Small"))
    kind = getattr(sys.modules["mynets"], "RaisesForward")  # noqa: B009
    with pytest.raises(RuntimeError) as theirs:
        kind(own_extractor.OBSERVATIONS)(torch.zeros(1, 4, 84, 84))
    line = find_fault(theirs.value, network)
    assert line is not None
    assert line.startswith("mynets:Small failed: RuntimeError: mat1 and mat2 shapes cannot be")
    assert line.endswith(f"(mynets.py, line {line_of('images @ ')})")
    assert find_fault(RuntimeError("ours"), network) is None
    assert find_fault(theirs.value, network.replace(extractor="a:B")) is None
