"""How a test asks for the message of an error."""

from collections.abc import Callable
from typing import Any

import pytest


def refusal(
    call: Callable[..., object],
    *arguments: Any,
    error: type[Exception] = ValueError,
    **options: Any,
) -> str:
    """The one line of the error that a call must raise."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line
