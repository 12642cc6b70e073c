"""Records that were read, kept so that clients that poll do not pay for decoding."""

from collections import OrderedDict

from outlast.domain.operation import Operation

MAX_RECORDS = 4096
MAX_PAYLOAD_BYTES = 4096
"""Larger records are not kept: together they would take much memory."""


class RecordCache:
    """The records used last. Whether one is still current is the reader's to ask."""

    def __init__(self) -> None:
        self.generation = -1
        """While the store's number is this one, all of them are current."""
        self._records: OrderedDict[str, Operation] = OrderedDict()

    def get(self, name: str) -> Operation | None:
        """Return the record that was put last under a name, if it is still kept."""
        operation = self._records.get(name)
        if operation is not None:
            self._records.move_to_end(name)
        return operation

    def put(self, operation: Operation) -> None:
        """Keep a record in place of an older one."""
        size = len(operation.metadata.value)
        if operation.response is not None:
            size += len(operation.response.value)
        if size > MAX_PAYLOAD_BYTES or operation.error is not None:
            self.discard(operation.name)
            return
        self._records[operation.name] = operation
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)

    def discard(self, name: str) -> None:
        """Forget a record that is not there any more."""
        self._records.pop(name, None)

    def clear(self) -> None:
        """Forget everything: somebody else has written."""
        self._records.clear()
