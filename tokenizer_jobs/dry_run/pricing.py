"""What a job costs on machines of several kinds, by a list of prices and what was measured here."""

import os
from collections.abc import Callable
from typing import Self

from pydantic import Field, field_validator

from tokenizer_jobs.results import MachineCost
from tokenizer_jobs.yaml_files import Frozen, load_yaml, validated

__all__ = ["MachineKind", "PriceList", "machine_costs"]


class MachineKind(Frozen):
    """One kind of machine that can be rented."""

    name: str = Field(min_length=1)
    cores: int = Field(gt=0)
    """As `nproc` counts them there."""
    gpus: int = Field(default=0, ge=0)
    price_per_hour: float = Field(ge=0)
    """Of one machine."""
    currency: str = Field(min_length=1)
    """As it is printed."""


class PriceList(Frozen):
    """A file of prices."""

    machines: tuple[MachineKind, ...] = Field(min_length=1)

    @field_validator("machines")
    @classmethod
    def _names_are_unique(cls, machines: tuple[MachineKind, ...]) -> tuple[MachineKind, ...]:
        names = [machine.name for machine in machines]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"{', '.join(doubled)} is there more than once; give every kind a name of its own")
        return machines

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and validate a file.

        Raises:
            ConfigError: the file is missing, is not YAML, or a key or value is wrong.
        """
        return validated(cls, load_yaml(path, what="list of prices"), origin=os.fspath(path))


def machine_costs(
    prices: PriceList, *, cores: int, gpus: int, seconds_on: Callable[[int, int], float | None]
) -> list[MachineCost]:
    """What a job costs on one machine of each kind, in the order of the list.

    Args:
        prices: The kinds.
        cores: Of this machine.
        gpus: Of this machine that the job uses.
        seconds_on: How long the job takes with so many cores and GPUs; None where this machine cannot tell.
    """
    return [
        MachineCost(
            name=kind.name,
            is_this_machine=(kind.cores, kind.gpus) == (cores, gpus),
            seconds=(seconds := seconds_on(kind.cores, kind.gpus)),
            cost=None if seconds is None else seconds / 3600 * kind.price_per_hour,
            currency=kind.currency,
        )
        for kind in prices.machines
    ]
