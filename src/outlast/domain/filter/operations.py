"""What a filter may name of an operation.

| field | type |
| --- | --- |
| `name`, `target`, `retried_from` | string |
| `verb` | string: the RPC that started it, as `package.Service/Method` |
| `done`, `dead_letter` | boolean |
| `state` | PENDING, RUNNING, SUCCEEDED, FAILED or CANCELLED |
| `attempt` | integer |
| `create_time`, `start_time`, `update_time`, `end_time`, `expire_time`, `cancel_requested_time` | timestamp |
| `error` | message: `error:*` |
| `error.code` | integer, or the code's name |
| `error.message` | string |
| `error.details` | list of messages with `@type` |
| `response` | message: `response:*`, `response.@type` |
| `metadata` | message: `metadata.@type` and the fields of the metadata type |

`@type` is a type URL, or the full name of the type alone. A bare literal is looked
for in `name`, `verb` and `target`, whatever its case.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from outlast.domain.filter.schema import (
    Enumeration,
    Field,
    FixedSchema,
    Kind,
    Message,
    Repeated,
    Scalar,
    Schema,
    SearchableSchema,
    UnionSchema,
)
from outlast.domain.operation import Operation, State
from outlast.domain.status import Code

STATE_TYPE = Enumeration(tuple(State))
DONE_TYPE = DEAD_LETTER_TYPE = Scalar(Kind.BOOL)

_STRING = Scalar(Kind.STRING)
_TIMESTAMP = Scalar(Kind.TIMESTAMP)
_PAYLOAD = FixedSchema({"@type": Field(Scalar(Kind.TYPE_URL), attrgetter("type_url"))})
_STATUS = FixedSchema(
    {
        "code": Field(
            Scalar(Kind.INT, {code.name: code.value for code in Code}), attrgetter("code")
        ),
        "message": Field(_STRING, attrgetter("message")),
        "details": Field(Repeated(Message(_PAYLOAD)), attrgetter("details")),
    }
)
_OPERATION = FixedSchema(
    {
        "name": Field(_STRING, attrgetter("name")),
        "verb": Field(_STRING, attrgetter("method")),
        "target": Field(_STRING, attrgetter("target")),
        "retried_from": Field(_STRING, attrgetter("retried_from")),
        "done": Field(DONE_TYPE, attrgetter("done")),
        "dead_letter": Field(DEAD_LETTER_TYPE, attrgetter("dead_letter")),
        "state": Field(STATE_TYPE, attrgetter("state")),
        "attempt": Field(Scalar(Kind.INT), attrgetter("attempt")),
        "create_time": Field(_TIMESTAMP, attrgetter("create_time")),
        "start_time": Field(_TIMESTAMP, attrgetter("start_time")),
        "update_time": Field(_TIMESTAMP, attrgetter("update_time")),
        "end_time": Field(_TIMESTAMP, attrgetter("end_time")),
        "expire_time": Field(_TIMESTAMP, attrgetter("expire_time")),
        "cancel_requested_time": Field(_TIMESTAMP, attrgetter("cancel_requested_time")),
        "error": Field(Message(_STATUS), attrgetter("error")),
        "response": Field(Message(_PAYLOAD), attrgetter("response")),
    }
)
_METADATA_TYPE = FixedSchema(
    {"@type": Field(Scalar(Kind.TYPE_URL), attrgetter("metadata.type_url"))}
)


@dataclass(frozen=True, slots=True)
class _OperationSchema(UnionSchema):
    def texts(self, record: Operation) -> Iterable[str]:
        return record.name, record.method, record.target


def operation_schema(metadata: Schema | None = None) -> SearchableSchema:
    """Return the schema of Operation records.

    The fields of `metadata` take the Operation as their record, so that they can
    show what is not in the stored payload as well.
    """
    members = (_METADATA_TYPE,) if metadata is None else (_METADATA_TYPE, metadata)
    of_metadata = Field(Message(UnionSchema(members)), lambda operation: operation)
    return _OperationSchema((_OPERATION, FixedSchema({"metadata": of_metadata})))
