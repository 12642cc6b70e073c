"""Records that this process has written last, which it need not read to write again."""

from collections import OrderedDict

from outlast.domain.operation import Operation

MAX_RECORDS = 4096


class Recent:
    """What runs, as it was last committed. Only the writer's thread uses it.

    All of it is forgotten when another process has written to the file.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, tuple[int, Operation]] = OrderedDict()
        self._data_version = 0

    def current(self, data_version: int) -> None:
        """Forget what another process may have changed since the last time."""
        if data_version != self._data_version:
            self._records.clear()
            self._data_version = data_version

    def get(self, name: str) -> tuple[int, Operation] | None:
        """Return the row's id and the record, if it is known."""
        return self._records.get(name)

    def put(self, row_id: int, operation: Operation) -> None:
        """Keep a record that was committed."""
        self._records[operation.name] = row_id, operation
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)

    def discard(self, name: str) -> None:
        """Forget a record."""
        self._records.pop(name, None)
