"""Plans: arms by name, the order of the runs, and what a saved plan allows a later command."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest

from configs.comparison import StoppingRule, default_criteria
from configs.run_config import (
    NetworkSettings,
    arm_name,
    experiment_differences,
    make_config,
    parse_arm,
)
from experiments.comparison.plan import (
    PLAN_NAME,
    ComparisonPlan,
    continue_plan,
    load_plan,
    make_plan,
    save_plan,
)
from tests.refusals import refusal
from tests.synthetic_runs import plan_of

UNKNOWN_ARM = (
    "--arms: unknown arm {!r}; use cnn, coordconv, coordconv-all, bias-map or random-channels, "
    "with -r for the radius, -zero for coordinate weights that start at 0; or module:Class for a "
    "network of your own."
)


def all_networks() -> list[NetworkSettings]:
    """Every network that the settings allow."""
    choices: dict[str, list[Any]] = {
        "coord_layers": [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)],
        "position": ["coordinates", "bias-map", "random-channels"],
        "with_radius": [False, True],
        "coord_init": ["default", "zero"],
    }
    networks = []
    for values in itertools.product(*choices.values()):
        with suppress(ValueError):
            networks.append(NetworkSettings.parse(dict(zip(choices, values, strict=True))))
    return networks


def test_an_arms_name_gives_its_network_back():
    networks = all_networks()
    assert len(networks) == 1 + 7 * (4 + 1 + 2)  # coordinates, bias-map, random-channels
    assert len({arm_name(network) for network in networks}) == len(networks)
    assert all(parse_arm(arm_name(network)) == network for network in networks)


def test_the_default_comparison_is_nine_games_two_arms_and_five_seeds():
    plan = make_plan(algo="a2c", overrides={})
    assert " ".join(plan.games) == (
        "Asteroids BeamRider Breakout MsPacman Pong Qbert RoadRunner Seaquest SpaceInvaders"
    )
    assert plan.arms == ("cnn", "coordconv")
    assert plan.seeds == (0, 1, 2, 3, 4)
    assert plan.total_agent_steps == 2_000_000
    assert plan.criteria == default_criteria()
    assert len(plan.runs()) == 90


def test_an_arm_may_have_settings_of_its_own(tmp_path):
    arms = ["cnn", "cnn learning_rate=3e-4", "coordconv-r normalize_advantage=true n_steps=8"]
    plan = make_plan("a2c", {"gamma": 0.9}, games=["Pong"], seeds=1, arms=arms)
    names = ("cnn", "cnn,learning_rate=0.0003", "coordconv-r,n_steps=8,normalize_advantage=true")
    assert plan.arms == names
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    assert make_plan("a2c", {}, saved=plan) == plan
    plain, slow, other = (plan.run_of("Pong", arm, 0) for arm in names)
    assert slow.name == "Pong/a2c-cnn,learning_rate=0.0003/seed0"
    assert [config.arm for config in (plain, slow, other)] == list(names)
    assert experiment_differences(plain, slow) == ["learning_rate"]
    assert slow.hyperparameters.learning_rate == 3e-4
    assert slow.hyperparameters.gamma == 0.9
    assert other.network == parse_arm("coordconv-r")
    saved = json.loads(slow.to_json())
    assert type(slow).from_mapping(saved, "") == slow
    for variant in ("learning_rate=0.1", "unknown=1", "../x=1", "preset=../x"):  # part of the path
        saved["variant"] = [variant]
        assert refusal(type(slow).from_mapping, saved, "config.json") == (
            f"config.json: `variant` must tell values of the hyper-parameters, got {variant!r}."
        )


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("cnn gamma", "after its network an arm takes key=value, got 'gamma'."),
        ("cnn learning_rat=1", "unknown setting 'learning_rat'; did you mean `learning_rate`?"),
        ("cnn n_steps=0", "`n_steps` must be a whole number at least 1 and at most 10_000, got 0."),
        ("cnn gamma=0.9 gamma=0.8", "`gamma` is given twice; give it once."),
        ("cnn n_steps=5", "n_steps=5 sets no arm apart, all runs have it; leave it out."),
    ],
)
def test_wrong_settings_of_an_arm_are_refused(arm, message):
    assert refusal(make_plan, "a2c", {}, arms=["cnn", arm]) == f"--arms: {message}"


def test_a_name_that_is_too_long_for_a_file_is_refused():
    values = plan_of(arms="cnn coordconv").model_dump()
    long = f"cnn,gamma=0.{'9' * 200}"
    assert refusal(ComparisonPlan.parse, values | {"arms": ("cnn", long)}) == (
        f"`arms`: the name {long[:40]}... is longer than 200 bytes, and files are named after it; "
        "give fewer or shorter settings."
    )


def test_a_plan_until_decided_keeps_its_rule(tmp_path):
    plan = plan_of(most_seeds=4, futility=0.1)
    assert plan.seeds == (0, 1, 2, 3)
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    again = make_plan("a2c", {}, saved=plan)  # the same command, or one that says nothing
    assert continue_plan(plan, again, judged=True) == plan
    assert plan.stopping == StoppingRule(first_look=3, level_exponent=2.0, futility=0.1)
    assert plan_of().design is None


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (
            {"until_decided": True, "seeds": 3},
            "--seeds is a fixed number, the plan goes on until decided; give --max-seeds.",
        ),
        (
            {"most_seeds": 3},
            "--max-seeds is of a plan that goes on until decided; add --until-decided.",
        ),
        (
            {"until_decided": True, "arms": ["cnn"]},
            "--until-decided needs an arm to compare with; name another in --arms.",
        ),
        (
            {"overrides": {"futility": 0.1}},
            "futility is of a plan that goes on until decided; add --until-decided.",
        ),
        (
            {"until_decided": True, "most_seeds": 2},
            "`most_seeds` must be a whole number at least 3 and at most 100, got 2.",
        ),
    ],
)
def test_numbers_of_seeds_that_contradict_are_refused(design, message):
    options = {"algo": "a2c", "overrides": {}} | design
    assert refusal(lambda: make_plan(**options)) == message


def test_runs_alternate_between_arms_and_games():
    assert [config.name.replace("a2c-", "") for config in plan_of().runs()] == [
        "Breakout/cnn/seed0",
        "Breakout/coordconv/seed0",
        "Pong/coordconv/seed0",
        "Pong/cnn/seed0",
        "Breakout/coordconv/seed1",
        "Breakout/cnn/seed1",
        "Pong/cnn/seed1",
        "Pong/coordconv/seed1",
    ]


def test_a_planned_run_is_the_single_commands():
    (planned,) = [
        config for config in plan_of(gamma=0.9).runs() if config.name == "Pong/a2c-coordconv/seed1"
    ]
    settings = {"total_agent_steps": 1000, "gamma": 0.9, "seed": 1, "coord_layers": [0]}
    assert planned == make_config("Pong", "a2c", settings).replace(variant=())


def test_arms_that_are_users_own(tmp_path):
    own = "examples.nature:PooledNatureCNN"
    plan = plan_of(arms=f"cnn {own},features_dim=64")
    assert plan.arms == ("cnn", "PooledNatureCNN,features_dim=64")
    network = plan.run_of("Pong", plan.arms[1], 0).network
    assert (network.extractor, network.extractor_settings) == (own, ("features_dim=64",))
    assert len(network.extractor_source) == 12
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    assert refusal(make_plan, "a2c", {}, saved=plan) == (
        f"comparison.json has networks that are code ({own}), which is run only if you name it: "
        "give its --arms again."
    )
    changed = plan.replace(extractors=(network.replace(extractor_source="0"),))
    assert refusal(continue_plan, changed, plan, judged=False) == (
        "comparison.json is a plan of other settings (extractors); choose another --runs folder."
    )
    assert refusal(plan_of, arms=f"cnn {own} {own}") == (
        "`arms` name PooledNatureCNN twice; name it once."
    )
    assert refusal(plan_of, arms=f"cnn {own}", precision="bf16") == (
        f"`precision` bf16 is for this project's own networks; leave it out with {own}."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractors": [5]}, "`extractors` must be a section, got 5."),
        ({"extractors": [{}]}, "`coord_layers` is missing; add it."),
        ({"arms": ["cnn", "Net"]}, UNKNOWN_ARM.format("Net")),
        (
            {"format_version": 9},
            "format version 9 is not the one this release reads (2); use the release that wrote "
            "it.",
        ),
        ({"extra": {}}, "unknown setting 'extra'; did you mean `extractors`?"),
        ({"criteria": None}, "the section `criteria` is missing; restore the file."),
        ({"template": None}, "the section `template` is missing; restore the file."),
        (
            {"seeds": ["a"]},
            "`seeds` must be a whole number at least 0 and at most 2_147_483_647, got 'a'.",
        ),
        ({"games": ["../x"]}, "Unknown game '../x'. `train.py --list-games` lists them."),
        ({"arms": ["cnn", "../x"]}, UNKNOWN_ARM.format("../x")),
        ({"stopping": 5}, "the section `stopping` is missing; restore the file."),
        (
            {"stopping": {"first_look": 3, "level_exponent": 2.0, "futility": 0.5}},
            "`futility` must be a number at least 0 and below 0.5, got 0.5.",
        ),
        (
            {"stopping": {"first_look": 6, "level_exponent": 2.0, "futility": 0.05}},
            "`first_look` must be at most the 2 seeds of the plan, got 6.",
        ),
        (
            {
                "stopping": {"first_look": 3, "level_exponent": 2.0, "futility": 0.05},
                "arms": ["cnn"],
            },
            "--until-decided needs an arm to compare with; name another in --arms.",
        ),
        ({"arms": []}, "`arms` of a comparison are missing; name at least one."),
        (
            {"criteria": default_criteria().model_dump() | {"alpha": 0}},
            "`alpha` must be a number above 0 and at most 0.5, got 0.",
        ),
    ],
)
def test_damaged_plans_are_refused(tmp_path, change, message):
    path = tmp_path / PLAN_NAME
    path.write_text(json.dumps(json.loads(plan_of().to_json()) | change))
    assert refusal(load_plan, tmp_path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("saved_looks", "change", "judged", "looks"),
    [
        ((), {}, True, ()),  # the same command goes on
        ((), {"seeds": 5}, False, ()),  # nothing could have been seen yet
        ((), {"seeds": 5}, True, (2,)),
        ((1,), {"seeds": 5}, True, (1, 2)),
        ((1,), {}, True, (1,)),
        ((), {"total_agent_steps": 2000}, False, ()),
        ((1,), {"total_agent_steps": 2000}, True, (1, 2)),
        ((), {"seeds": 5, "total_agent_steps": 2000}, True, (2,)),
    ],
)
def test_added_seeds_or_agent_steps_are_a_further_look(saved_looks, change, judged, looks):
    saved, larger = plan_of().replace(looks=saved_looks), plan_of(**change)
    assert continue_plan(saved, larger, judged=judged) == larger.replace(looks=looks)


OTHER = "is a plan of other settings ({}); choose another --runs folder."
UNTIL_DECIDED = plan_of(most_seeds=4)


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        (
            plan_of(),
            plan_of("Pong Breakout", gamma=0.5, alpha=0.1, total_agent_steps=900),
            OTHER.format("games, alpha, gamma"),
        ),
        (
            plan_of(),
            plan_of(total_agent_steps=900),
            "is a plan of 1_000 agent steps a run, more than the 900 asked for; ask for at least "
            "as many.",
        ),
        (
            plan_of(),
            plan_of().replace(source="abc"),
            f"was begun with source version {plan_of().source}, this is abc: "
            "their runs do not compare; go back to that version, or choose another --runs folder.",
        ),
        (
            plan_of(),
            plan_of(seeds=1),
            "is a plan of 2 seeds, more than the 1 asked for; ask for at least as many.",
        ),
        (UNTIL_DECIDED, plan_of(seeds=4), OTHER.format("until_decided")),
        (UNTIL_DECIDED, plan_of(most_seeds=4, futility=0.2), OTHER.format("stopping")),
        (
            UNTIL_DECIDED,
            plan_of(most_seeds=5),
            "is a plan of at most 4 seeds of 1_000 agent steps, which its rule depends on; choose "
            "another --runs folder.",
        ),
    ],
)
@pytest.mark.parametrize("judged", [False, True])
def test_another_plan_in_the_same_folder_is_refused(saved, asked, message, judged):
    assert refusal(continue_plan, saved, asked, judged=judged) == f"comparison.json {message}"
