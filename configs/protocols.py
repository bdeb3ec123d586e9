"""The named protocols: how a game is presented to an agent."""

from typing import Annotated

from pydantic import Field

from configs.settings import Settings, describe_unknown, load_preset


class Protocol(Settings):
    """How a game is presented to an agent; `protocols.toml` explains each value."""

    frames_per_agent_step: Annotated[int, Field(ge=1, le=64)]
    no_op_max: Annotated[int, Field(ge=0, le=1000)]
    sticky_action_probability: Annotated[float, Field(ge=0, lt=1)]
    life_loss_ends_episode: bool
    fire_on_reset: bool
    clip_rewards: bool
    max_frames_per_game: Annotated[int, Field(ge=1, le=2**31 - 1)]


def protocol_names() -> list[str]:
    """The names `load_protocol` knows."""
    return list(load_preset("protocols"))


def load_protocol(name: str) -> Protocol:
    """Look a protocol up by its name.

    Raises:
        ValueError: If there is no protocol of that name.
    """
    protocols = load_preset("protocols")
    if name not in protocols:
        raise ValueError(describe_unknown(name, protocols, "protocol"))
    return Protocol.parse(protocols[name], f"protocols.toml [{name}]")
