"""The `space:` of a sweep: which keys of a job are searched, over which values, as Ray Tune's domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain

from squall.platform.errors import ConfigError, nearest

DOMAINS = {
    "uniform": (tune.uniform, 2), "loguniform": (tune.loguniform, 2), "quniform": (tune.quniform, 3),
    "randint": (tune.randint, 2), "lograndint": (tune.lograndint, 2),
}
"""Ray Tune's names, with the number of values that each takes: lower and upper bound, and the step of `quniform`."""
LISTS = ("choice", "grid_search")


def parse_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """Domains by key. A key holds ``{loguniform: [1.0e-6, 1.0e-4]}``, ``{choice: [a, b]}`` and so on; a list alone is a choice.

    Raises:
        ConfigError: a key whose values are none of these.
    """
    if not space:
        raise ConfigError("space: names no key to search; such as: space: {learner.optimiser.learning_rate: "
                          "{loguniform: [1.0e-6, 1.0e-4]}}")
    return {key: _domain(key, value) for key, value in space.items()}


def examples(domain: Any) -> list[Any]:
    """Values at the ends of a domain, or all of a list, to be checked before anything runs."""
    if isinstance(domain, dict):
        return list(domain["grid_search"])
    if isinstance(domain, Categorical):
        return list(domain.categories)
    upper = domain.upper - 1 if domain.__class__.__name__ == "Integer" else domain.upper
    return [domain.lower, upper]


def size_of_grid(domains: Mapping[str, Any]) -> int | None:
    """Combinations of a space of lists alone; None where a key has a range."""
    sizes = [len(examples(domain)) for domain in domains.values() if isinstance(domain, (dict, Categorical))]
    if len(sizes) < len(domains):
        return None
    product = 1
    for size in sizes:
        product *= size
    return product


def as_grid(domains: Mapping[str, Any]) -> dict[str, Any]:
    """Every choice as a grid. Raises ConfigError for a range."""
    for key, domain in domains.items():
        if not isinstance(domain, (dict, Categorical)):
            raise ConfigError(f"space: '{key}' is a range, and sweep.search grid takes lists alone: choice: [...]")
    return {key: tune.grid_search(examples(domain)) for key, domain in domains.items()}


def _domain(key: str, value: Any) -> Domain | dict[str, Any]:
    if isinstance(value, list):
        value = {"choice": value}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"space: '{key}' = {value!r}: expected a list, or one of {', '.join((*DOMAINS, *LISTS))} with "
                          "its values; keys are dotted: learner.optimiser.learning_rate")
    (name, arguments), = value.items()
    if name in LISTS:
        if not isinstance(arguments, list) or not arguments:
            raise ConfigError(f"space: '{key}': {name} takes a list of values, got {arguments!r}")
        return tune.choice(arguments) if name == "choice" else tune.grid_search(arguments)
    if name not in DOMAINS:
        raise ConfigError(f"space: '{key}': unknown domain '{name}'.{nearest(name, (*DOMAINS, *LISTS))} Known: "
                          f"{', '.join((*DOMAINS, *LISTS))}; a key below another is written with a dot: '{key}.{name}'")
    make, count = DOMAINS[name]
    if not isinstance(arguments, list) or len(arguments) != count or not all(isinstance(x, (int, float)) for x in arguments):
        raise ConfigError(f"space: '{key}': {name} takes {count} numbers, got {arguments!r}")
    if arguments[0] >= arguments[1] or (name.startswith("log") and arguments[0] <= 0):
        raise ConfigError(f"space: '{key}': {name} needs a lower bound below the upper one"
                          + (" and above 0" if name.startswith("log") else "") + f", got {arguments!r}")
    return make(*arguments)
