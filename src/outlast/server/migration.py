"""Carrying every operation from one store to another."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from outlast.domain.errors import ConfigurationError
from outlast.engine.clock import SystemClock
from outlast.stores.addresses import described
from outlast.stores.archive import Archive, Refusal
from outlast.stores.sqlite import archive as sqlite


@dataclass(slots=True)
class Tally:
    """How far a migration is."""

    total: int
    """How many operations the source has."""
    secret_kept: bool
    """Whether page tokens of the source are good for the target."""
    added: int = 0
    present: int = 0
    """How many were in the target already, as an earlier run has left them."""
    refused: int = 0

    @property
    def seen(self) -> int:
        """How many of the source's operations have had their turn."""
        return self.added + self.present + self.refused

    @property
    def complete(self) -> bool:
        """Whether everything is in the target."""
        return self.added + self.present == self.total


def migrate_store(
    source: str, target: str, report: Callable[[Tally, Sequence[Refusal]], None]
) -> Tally:
    """Carry the operations of the store that a name stands for to another one.

    They are carried in batches, each of which is in the target with all that it has, or not
    at all: a run that was interrupted is continued by the next one. Nothing in the target is
    overwritten. `report` hears of each batch: where things stand, and what was refused. Raises
    ConfigurationError and StoreOpenError, before anything is written, and
    StoreUnavailableError.
    """
    if source == target:
        raise ConfigurationError(f"{described_store(source)} is named as source and as target")
    with _opened(source, "source") as old, _opened(target, "target") as new:
        tally = Tally(len(old), new.adopt(old.secret))
        for batch in old.batches():
            written = new.write(batch.records)
            refused = [*batch.unreadable, *written.refused]
            tally.added += written.added
            tally.present += written.present
            tally.refused += len(refused)
            report(tally, refused)
    return tally


def described_store(name: str) -> str:
    """Return the name of a store for a person: without a password."""
    return described(name) if "://" in name else name


def _opened(name: str, role: Literal["source", "target"]) -> AbstractContextManager[Archive]:
    scheme, separator, _ = name.partition("://")
    if not separator and name != "memory:":
        return sqlite.source(name) if role == "source" else sqlite.target(name)
    if scheme not in {"postgresql", "postgres"}:
        raise ConfigurationError(
            f"{described_store(name)!r} cannot be the {role}; name a file or a postgresql:// URL"
        )
    try:
        postgres = import_module("outlast.stores.postgres.archive")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{described(name)} needs psycopg: install the extra outlast[postgres]"
        ) from error
    opened: AbstractContextManager[Archive] = (
        postgres.source(name) if role == "source" else postgres.target(name, SystemClock())
    )
    return opened
