"""A decorator of the user's."""

import functools
from collections.abc import Callable
from typing import Any


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The method, times two."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return 2 * function(*args, **kwargs)

    return wrapper
