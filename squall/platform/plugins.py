"""Functions of the user's own, named ``module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from squall.platform.errors import ConfigError


def import_function(what: str, name: str) -> Callable[..., Any]:
    """The function that a name such as ``my_rewards:brief`` stands for; `what` it is to be begins the message of an error.

    Raises:
        ConfigError: there is no such module or function, or it is no function.
    """
    module, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} '{name}': {error}. Expected module:function, importable here and by the workers") from error
    if not callable(function):
        raise ConfigError(f"{what} '{name}': {function_name} is a {type(function).__name__}, not a function")
    return function
