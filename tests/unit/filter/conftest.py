"""A schema with a field of every type, and records to filter by it."""

from dataclasses import dataclass, field

import pytest

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import (
    Enumeration,
    Field,
    FixedSchema,
    Kind,
    Map,
    Message,
    Repeated,
    Scalar,
    UnionSchema,
    compile_filter,
    parse,
)


def of(name, type_):
    return name, Field(type_, lambda record: record.get(name))


STRING, INT = Scalar(Kind.STRING), Scalar(Kind.INT)
INNER = FixedSchema(
    dict(
        [
            of("s", STRING),
            of("i", INT),
            of("tags", Repeated(STRING)),
            of("deep", Message(FixedSchema(dict([of("x", STRING)])))),
        ]
    )
)


@dataclass(frozen=True)
class Searchable(UnionSchema):
    members: tuple = field(
        default=(
            FixedSchema(
                dict(
                    [
                        of("b", Scalar(Kind.BOOL)),
                        of("i", INT),
                        of("code", Scalar(Kind.INT, {"LOW": 1, "HIGH": 9})),
                        of("f", Scalar(Kind.FLOAT)),
                        of("s", STRING),
                        of("t", Scalar(Kind.TIMESTAMP)),
                        of("d", Scalar(Kind.DURATION)),
                        of("url", Scalar(Kind.TYPE_URL)),
                        of("e", Enumeration(("NONE", "RED", "BLUE"), default="NONE")),
                        of("m", Message(INNER)),
                        of("opaque", Message(FixedSchema())),
                        of("r", Repeated(STRING)),
                        of("numbers", Repeated(INT)),
                        of("rm", Repeated(Message(INNER))),
                        of("map", Map(STRING, INT)),
                        of("by_number", Map(INT, Message(INNER))),
                    ]
                )
            ),
        )
    )

    def texts(self, record):
        return record.get("texts", ())


SCHEMA = Searchable()


@pytest.fixture(scope="session")
def matches():
    """Return what filters one record."""

    def match(written, **record):
        return compile_filter(parse(written), SCHEMA)(record)

    return match


@pytest.fixture(scope="session")
def refuse():
    """Return what checks that a filter is refused, and how that is said."""

    def check(written, description):
        with pytest.raises(InvalidFilterError) as caught:
            compile_filter(parse(written), SCHEMA)
        assert description in caught.value.description
        assert "at character" in caught.value.description
        assert len(caught.value.message) < 400

    return check
