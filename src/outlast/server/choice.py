"""Which operations a process runs."""

from collections.abc import Collection
from dataclasses import dataclass

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Choice:
    """Which methods of its services a process runs the operations of.

    Raises ConfigurationError for a choice that contradicts itself.
    """

    execute: bool = True
    """Whether it runs any."""
    methods: Collection[str] | None = None
    """The only ones, as `package.Service/Method`; None is all."""
    except_methods: Collection[str] = ()
    """Those that it leaves to others, of all."""

    def __post_init__(self) -> None:
        require("execute", self.execute, bool, "True or False")
        if self.methods is not None:
            _require_names("methods", self.methods)
        _require_names("except_methods", self.except_methods)
        if self.methods is not None and self.except_methods:
            raise ConfigurationError("methods and except_methods: give one of them")
        if not self.execute and (self.methods is not None or self.except_methods):
            raise ConfigurationError("with execute=False no methods are run that could be chosen")

    def of(self, known: Collection[str]) -> Collection[str]:
        """Return which of the methods that there are it runs.

        Raises ConfigurationError for names that are none of them, and if nothing is left.
        """
        if not self.execute:
            return ()
        for name in (*(self.methods or ()), *self.except_methods):
            if name not in known:
                raise ConfigurationError(
                    f"no service here has a long-running method {name!r}; "
                    f"there are: {', '.join(sorted(known)) or 'none'}"
                )
        chosen = known if self.methods is None else self.methods
        taken = [name for name in dict.fromkeys(chosen) if name not in self.except_methods]
        if known and not taken:
            raise ConfigurationError("no methods are left to run; for none give execute=False")
        return taken


def _require_names(name: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ConfigurationError(f"{name} must be a list of names, not {value!r}")
    for each in value:
        require(f"each of {name}", each, str, "a str: package.Service/Method")
