"""How a test asks for the message of an error."""

from collections.abc import Callable
from typing import Any

import pytest


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The one line of the ValueError or OSError that a call must raise."""
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line
