"""What the engine knows of a method: how to run it, and by which rules."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from outlast.domain.errors import ConfigurationError
from outlast.domain.status import Payload
from outlast.engine.context import ExecutionContext
from outlast.engine.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A long-running method."""

    name: str
    """`package.Service/Method`."""
    run: Callable[[Payload, ExecutionContext], Awaitable[Payload]]
    """Do the work for a request, under a context; return the response."""
    metadata_type: str
    """The type URL of the metadata message."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta | None = None
    retention: timedelta = timedelta(days=30)
    concurrency: int | None = None
    """How many of its operations this process runs at the same time; None for no own limit."""

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigurationError(f"the concurrency of {self.name} must be at least 1")
        if self.timeout is not None and self.timeout <= timedelta():
            raise ConfigurationError(f"the timeout of {self.name} must be above 0")
        if self.retention < timedelta():
            raise ConfigurationError(f"the retention of {self.name} must not be negative")
