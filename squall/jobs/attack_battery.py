"""Which attacks are made at which budgets: those that were asked for, and those that the checks for gradient masking need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squall.algorithms.attacks.base import Attack, Threat
from squall.algorithms.attacks.checks import check_threat
from squall.algorithms.attacks.registry import parse_attack
from squall.algorithms.masking_evidence import Role, masking_attacks, role_of
from squall.platform.errors import ConfigError

HEADLINE = "pgd"
"""Kind of the attack whose figure the checks put on trial."""
SCHEDULE_PASSES = 12_000
"""Of AutoAttack on an image that stands, about."""


@dataclass(frozen=True)
class Battery:
    """Attacks by name, and at which budgets each is made."""

    attacks: Mapping[str, Attack]
    budgets: tuple[Threat, ...]
    """At which robust accuracy is asked for."""
    strikes: tuple[tuple[str, Threat], ...]
    """Every attack at every budget, and then what the checks need beside."""
    headline: str
    """Name of the attack on trial."""
    transfers: tuple[str, ...] = ()
    """Attacks whose examples are shown to the other models, at every budget that they were made at."""

    def settings(self, name: str) -> dict[str, Any]:
        """All settings of an attack as plain values, its kind first."""
        return {"kind": self.attacks[name].kind, **self.attacks[name].model_dump(mode="json")}

    def effort(self, name: str) -> float:
        """Passes on an image that stands, about: what takes longest is done first."""
        attack, values = self.attacks[name], self.settings(name)
        if attack.kind == "autoattack":
            return SCHEDULE_PASSES
        passes = [values.get(key) or 1 for key in ("steps", "queries", "draws", "restarts", "targets")]
        total = 1.0
        for number in passes:
            total *= number
        return total * (1 if role_of(attack) in ("black_box", "noise") else 3)

    @property
    def asked(self) -> dict[str, Any]:
        """What a card says of it."""
        return {"attacks": [{"name": name, **self.settings(name)} for name in self.attacks],
                "budgets": [budget.model_dump(mode="json") for budget in self.budgets],
                "strikes": [[name, threat.norm, threat.epsilon] for name, threat in self.strikes],
                "headline": self.headline, "transfers": list(self.transfers)}

    @property
    def roles(self) -> dict[str, Role]:
        """What each attack may know."""
        return {name: role_of(attack) for name, attack in self.attacks.items()}


def make_battery(entries: Sequence[str | Mapping[str, Any]], budgets: Sequence[Threat], shape: tuple[int, ...], *,
                 masking: bool = True, transfer: bool | Sequence[str] = False) -> Battery:
    """Read attacks, and add what the checks for gradient masking need at the first budget.

    Args:
        entries: as `parse_attack` reads them.
        shape: of an image.
        masking: whether the checks are to be made.
        transfer: names of the attacks whose examples are shown to other models; True takes the one on trial.

    Raises:
        ConfigError: an unknown attack or setting, a name or attack that is there twice, a budget that is none.
    """
    attacks = _named(entries)
    for budget in budgets:
        check_threat(budget, shape)
    if len(set(budgets)) < len(budgets) or not budgets:
        raise ConfigError("budgets: name each once, and one at least" if budgets else "budgets: none; give norm and epsilons")
    headline = next((name for name, attack in attacks.items() if attack.kind == HEADLINE), HEADLINE)
    strikes = [(name, budget) for budget in budgets for name in attacks]
    if masking:
        attacks, strikes = _with_probes(attacks, strikes, budgets[0], shape, headline)
    transfers = ((headline,) if transfer else ()) if isinstance(transfer, bool) else tuple(transfer)
    if unknown := [name for name in transfers if name not in attacks]:
        raise ConfigError(f"transfer: no attack '{unknown[0]}' in this run; there are {', '.join(attacks)}")
    return Battery(attacks, tuple(budgets), tuple(strikes), headline, transfers)


def _named(entries: Sequence[str | Mapping[str, Any]]) -> dict[str, Attack]:
    attacks: dict[str, Attack] = {}
    for name, attack in map(parse_attack, entries):
        if name in attacks:
            raise ConfigError(f"attacks: '{name}' is there twice; give one another name: {{kind: {attack.kind}, name: ...}}")
        if same := next((other for other, known in attacks.items() if known == attack), None):
            raise ConfigError(f"attacks: '{same}' and '{name}' are the same attack; leave one out")
        attacks[name] = attack
    if not attacks:
        raise ConfigError("attacks: none; give one or more, such as [pgd, autoattack, square, noise]")
    return attacks


def _with_probes(attacks: Mapping[str, Attack], strikes: Sequence[tuple[str, Threat]], budget: Threat, shape: tuple[int, ...],
                 headline: str) -> tuple[dict[str, Attack], list[tuple[str, Threat]]]:
    """With what the checks need, by attacks of the run where it has one that does."""
    entry = headline if headline not in attacks else {
        "kind": HEADLINE, "name": headline, **attacks[headline].model_dump(exclude_unset=True)}
    joined, all_strikes = dict(attacks), list(strikes)
    for probe, threat in masking_attacks(budget, shape, entry):
        name, attack = parse_attack(probe)
        name = name if name in joined else next((own for own, known in joined.items() if known == attack), name)
        joined.setdefault(name, attack)
        if (name, threat) not in all_strikes:
            all_strikes.append((name, threat))
    return joined, all_strikes
