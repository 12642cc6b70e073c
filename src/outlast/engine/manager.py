"""What can be done with operations: the use cases behind the RPCs."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from outlast.domain.errors import (
    ExclusiveConflictError,
    InvalidArgumentError,
    OperationNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    StoreUnavailableError,
)
from outlast.domain.listing import Cursor, ListQuery
from outlast.domain.names import MAX_NAME_LENGTH, operation_name
from outlast.domain.operation import Attempt, Operation
from outlast.domain.status import Payload
from outlast.engine.identifiers import Identifiers
from outlast.engine.methods import Method
from outlast.engine.patience import absorb
from outlast.engine.settings import EngineSettings
from outlast.engine.waiters import WaiterHub
from outlast.ports import Clock, OperationStore, QueueStats

T = TypeVar("T")

_SCAN_CHUNK = 64
"""Records read at once while listing: with the largest responses they are some 100 MiB."""
_LAST_LOOK_SECONDS = 0.1
"""What a wait leaves of its caller's time for reading the latest state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What is to be started."""

    method: Method
    request: Payload
    digest: bytes
    """Tells requests apart that come under the same request_id."""
    parent: str = ""
    principal: str = ""
    request_id: str = ""
    target: str = ""
    exclusive_key: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of operations, and where the next one begins if there may be one."""

    operations: Sequence[Operation]
    next: Cursor | None


class OperationManager:
    """Starts, reads, lists, cancels, deletes, redrives and waits.

    `patience` is how many seconds a call may wait for the store, whether that says that it
    cannot answer or says nothing, at most `store_patience`; then StoreUnavailableError is
    raised.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        hub: WaiterHub,
        settings: EngineSettings,
        methods: Mapping[str, Method],
    ) -> None:
        self._store = store
        self._clock = clock
        self._hub = hub
        self._settings = settings
        self._methods = methods
        self._identifiers = Identifiers()
        self._blanks: dict[str, Operation] = {}

    async def start(self, start: StartRequest, patience: float | None = None) -> Operation:
        """Accept an operation: it is durable when this returns.

        With the request_id of an earlier start, returns that operation as it is now.
        Raises InvalidArgumentError, PayloadTooLargeError, RequestIdReusedError, ExclusiveConflictError and
        QueueFullError; then nothing was accepted.
        """
        limit = self._settings.max_request_bytes
        if len(start.request.value) > limit:
            raise PayloadTooLargeError("the request", len(start.request.value), limit)
        if len(start.target) > MAX_NAME_LENGTH:
            raise InvalidArgumentError("name", f"longer than {MAX_NAME_LENGTH} characters")
        operation = self._new_operation(start)
        inserted = await self._patiently(
            lambda: self._store.insert(
                operation,
                start.request,
                max_pending=self._settings.max_pending,
                max_pending_in_method=start.method.max_pending,
            ),
            patience,
        )
        return inserted.operation

    async def started_before(
        self, start: StartRequest, patience: float | None = None
    ) -> Operation | None:
        """Return what an earlier start with the same request_id accepted, if there was one.

        Raises RequestIdReusedError.
        """
        if not start.request_id:
            return None
        operation = self._new_operation(start)
        try:
            # Where nothing may wait, nothing can be accepted; what was accepted is found.
            inserted = await self._patiently(
                lambda: self._store.insert(operation, start.request, max_pending=0), patience
            )
        except (QueueFullError, ExclusiveConflictError):
            return None
        return inserted.operation

    def peek(self, name: str) -> Operation | None:
        """Return an operation if it is at hand; None says nothing."""
        return self._store.peek(name)

    async def get(self, name: str, patience: float | None = None) -> Operation:
        """Return an operation. Raises OperationNotFoundError."""
        return await self._patiently(lambda: self._store.get(name), patience)

    async def wait(
        self, name: str, seconds: float | None, patience: float | None = None
    ) -> Operation:
        """Return an operation when it is done, or as it is after so many seconds.

        The setting `max_wait` bounds it; None asks for just that. Raises
        OperationNotFoundError and TooManyWaitersError.
        """
        longest = self._settings.max_wait.total_seconds()
        bounded = longest if seconds is None else min(seconds, longest)
        if patience is not None:
            bounded = min(bounded, patience - min(_LAST_LOOK_SECONDS, patience / 10))
        began = self._clock.monotonic()
        operation = await self._hub.wait(name, bounded, self._bounded(patience))
        if operation is not None:
            return operation
        return await self.get(name, self._left(patience, began))

    async def cancel(self, name: str, patience: float | None = None) -> None:
        """Ask an operation to stop; one that is done stays as it is."""
        await self._patiently(lambda: self._store.request_cancel(name), patience)

    async def delete(self, name: str, patience: float | None = None) -> None:
        """Forget an operation; its work, if any is left, goes on."""
        in_doubt = False

        async def delete() -> None:
            nonlocal in_doubt
            try:
                await self._store.delete(name)
            except StoreUnavailableError:
                in_doubt = True
                raise
            except OperationNotFoundError:
                if not in_doubt:  # otherwise an earlier try did it, and its answer was lost
                    raise

        await self._patiently(delete, patience)

    async def redrive(self, name: str, patience: float | None = None) -> Operation:
        """Do the work of a failed or cancelled operation again; return the new operation.

        While an earlier redrive of it is not done, returns that one. Raises
        OperationNotFoundError, NotRedrivableError, ExclusiveConflictError and
        QueueFullError; then nothing was accepted.
        """
        operation, _ = await self._redrive(name, patience, again=True)
        return operation

    async def redrive_once(self, name: str, patience: float | None = None) -> Operation | None:
        """Redrive an operation unless that was done before; then return None. Raises as `redrive`."""
        operation, created = await self._redrive(name, patience, again=False)
        return operation if created else None

    async def _redrive(
        self, name: str, patience: float | None, *, again: bool
    ) -> tuple[Operation, bool]:
        operation_id = self._identifiers.new()
        limits = {
            method.name: method.max_pending
            for method in self._methods.values()
            if method.max_pending is not None
        }
        inserted = await self._patiently(
            lambda: self._store.redrive(
                name,
                operation_id,
                again=again,
                max_pending=self._settings.max_pending,
                max_pending_in_methods=limits,
            ),
            patience,
        )
        # A try of this call whose answer was lost has created it too.
        return inserted.operation, inserted.operation.name.endswith(f"/{operation_id}")

    async def attempts(self, name: str, patience: float | None = None) -> Sequence[Attempt]:
        """Return the attempts of an operation, the oldest first."""
        return await self._patiently(lambda: self._store.attempts(name), patience)

    async def stats(self, patience: float | None = None) -> Sequence[QueueStats]:
        """Return how much work each method has."""
        return await self._patiently(self._store.stats, patience)

    async def list_page(
        self,
        query: ListQuery,
        matches: Callable[[Operation], bool] | None = None,
        patience: float | None = None,
    ) -> Page:
        """Return up to `query.limit` operations that match, in the query's order.

        A page is shorter if it would exceed `max_page_bytes`, or if `max_scanned`
        records were looked at; then it says where to go on.
        """
        began = self._clock.monotonic()
        found: list[Operation] = []
        size = scanned = 0
        cursor = query.after
        while scanned < self._settings.max_scanned:
            limit = min(_SCAN_CHUNK, self._settings.max_scanned - scanned)
            chunk = await self._read_chunk(
                replace(query, limit=limit, after=cursor), self._left(patience, began)
            )
            for operation in chunk:
                scanned += 1
                if matches is None or matches(operation):
                    size += approximate_size(operation)
                    full = len(found) == query.limit or size > self._settings.max_page_bytes
                    if found and full:
                        return Page(found, cursor)
                    found.append(operation)
                cursor = Cursor.at(operation)
            if len(chunk) < limit:
                return Page(found, None)
        return Page(found, cursor)

    async def _read_chunk(self, query: ListQuery, patience: float | None) -> Sequence[Operation]:
        return await self._patiently(lambda: self._store.list_page(query), patience)

    def _new_operation(self, start: StartRequest) -> Operation:
        now = self._clock.now()
        return self._blank(start.method).evolve(
            name=operation_name(start.parent, self._identifiers.new()),
            parent=start.parent,
            create_time=now,
            update_time=now,
            ready_time=now,
            principal=start.principal,
            request_id=start.request_id,
            request_digest=start.digest,
            target=start.target,
            exclusive_key=start.exclusive_key,
        )

    def _blank(self, method: Method) -> Operation:
        """Return what the operations of a method have in common."""
        blank = self._blanks.get(method.name)
        if blank is None:
            blank = self._blanks[method.name] = Operation(
                name="",
                parent="",
                method=method.name,
                create_time=self._clock.now(),
                update_time=self._clock.now(),
                max_attempts=method.retry.max_attempts,
                timeout=method.timeout,
                retention=method.retention,
                metadata=Payload(method.metadata_type),
            )
        return blank

    async def _patiently(self, call: Callable[[], Awaitable[T]], patience: float | None) -> T:
        return await absorb(self._clock, call, self._bounded(patience))

    def _bounded(self, patience: float | None) -> float:
        longest = self._settings.store_patience.total_seconds()
        return longest if patience is None else min(patience, longest)

    def _left(self, patience: float | None, began: float) -> float | None:
        """Return what is left of a patience since a monotonic time."""
        if patience is None:
            return None
        return max(0.0, patience - (self._clock.monotonic() - began))


_FRAME_BYTES = 1024
"""About what an operation takes on the wire besides its payloads."""
_MAX_CHARACTER_BYTES = 4


def approximate_size(operation: Operation) -> int:
    """Return about how many bytes an operation takes on the wire, rather too many."""
    size = _FRAME_BYTES + 2 * len(operation.name) + len(operation.metadata.value)
    size += _MAX_CHARACTER_BYTES * len(operation.target)
    if operation.progress is not None:
        text = operation.progress.stage + operation.progress.message
        size += _MAX_CHARACTER_BYTES * len(text)
    if operation.response is not None:
        size += len(operation.response.value)
    for status in (operation.error, operation.last_error):
        if status is not None:
            size += _MAX_CHARACTER_BYTES * len(status.message) + sum(
                len(detail.value) for detail in status.details
            )
    return size
