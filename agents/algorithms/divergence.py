"""The end of a run whose arithmetic left the finite numbers."""


class Divergence(Exception):
    """A loss or a weight became NaN or infinite: a result, not a fault of the program."""

    def __init__(self, name: str, value: float, agent_steps: int) -> None:
        super().__init__(
            f"diverged at {agent_steps:_} agent steps: {name} is {value}; "
            "try a smaller learning_rate."
        )
