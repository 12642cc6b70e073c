"""Filters on operations, and what of them is left to the store."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import (
    Field,
    FixedSchema,
    Kind,
    Scalar,
    compile_filter,
    conditions,
    operation_schema,
    parse,
)
from outlast.domain.listing import Conditions
from outlast.domain.operation import Operation, State
from outlast.domain.status import Code, Payload, Status

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
METADATA = FixedSchema(
    {
        "percent": Field(
            Scalar(Kind.INT), lambda operation: operation.progress and operation.progress.percent
        ),
        "attempt": Field(Scalar(Kind.INT), lambda operation: operation.attempt),
    }
)
PREFIX = "type.googleapis.com/"


def operation(**fields):
    defaults = {
        "name": "photos/1/operations/abc",
        "parent": "photos/1",
        "method": "outlastapi.imaging.v1.ImagingService/ProcessImage",
        "create_time": NOW,
        "update_time": NOW,
        "metadata": Payload(PREFIX + "outlastapi.imaging.v1.ProcessImageMetadata"),
    }
    return Operation(**defaults | fields)


RUNNING = operation(state=State.RUNNING, attempt=1, start_time=NOW, target="photos/1")
SUCCEEDED = operation(
    state=State.SUCCEEDED,
    start_time=NOW,
    end_time=NOW + timedelta(seconds=2),
    response=Payload(PREFIX + "google.protobuf.Empty"),
)
DEAD = operation(
    state=State.FAILED,
    dead_letter=True,
    end_time=NOW,
    retried_from="operations/old",
    cancel_requested_time=NOW,
    error=Status(Code.UNAVAILABLE, "the disk is away", (Payload(PREFIX + "google.rpc.ErrorInfo"),)),
)
CANCELLED = operation(state=State.CANCELLED, end_time=NOW, error=Status(Code.CANCELLED, "stopped"))
ALL = {"RUNNING": RUNNING, "SUCCEEDED": SUCCEEDED, "DEAD": DEAD, "CANCELLED": CANCELLED}


def matching(written):
    predicate = compile_filter(parse(written), operation_schema(METADATA))
    return {name for name, each in ALL.items() if predicate(each)}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("", "RUNNING SUCCEEDED DEAD CANCELLED", id="empty"),
        *(
            pytest.param(written, expected, id=written, marks=pytest.mark.assertion(number))
            for number, written, expected in [
                (103, "done=true", "SUCCEEDED DEAD CANCELLED"),
                (103, "done:true", "SUCCEEDED DEAD CANCELLED"),
                (103, "done = false", "RUNNING"),
                (103, "done != true", "RUNNING"),
                (103, "NOT done=true", "RUNNING"),
                (103, "-done:true", "RUNNING"),
                (104, "error:*", "DEAD CANCELLED"),
                (104, "-error:*", "RUNNING SUCCEEDED"),
                (104, "error.code=1", "CANCELLED"),
                (104, "error.code=CANCELLED", "CANCELLED"),
                (104, "error.code != 1", "DEAD"),
                (104, "error.code > CANCELLED", "DEAD"),
                (104, "error:message", "DEAD CANCELLED"),
                (104, 'error.message = "*disk*"', "DEAD"),
                (104, "error.details.@type:google.rpc.ErrorInfo", "DEAD"),
                (104, "response:*", "SUCCEEDED"),
                (104, "response.@type=google.protobuf.Empty", "SUCCEEDED"),
                (104, 'name="photos/1/operations/abc"', "RUNNING SUCCEEDED DEAD CANCELLED"),
                (104, "name=photos/1/operations/x*", ""),
                (
                    104,
                    "(metadata.@type=type.googleapis.com/outlastapi.imaging.v1.ProcessImageMetadata) AND (error:*)",
                    "DEAD CANCELLED",
                ),
                (
                    104,
                    'metadata.@type = "type.googleapis.com/outlastapi.imaging.v1.ProcessImageMetadata" done=false',
                    "RUNNING",
                ),
                (
                    104,
                    "metadata.@type = outlastapi.imaging.v1.ProcessImageMetadata done=false",
                    "RUNNING",
                ),
                (104, "metadata.@type : *", "RUNNING SUCCEEDED DEAD CANCELLED"),
                (104, "metadata.@type = other.Metadata", ""),
                (104, 'create_time > "2024-01-01T00:00:00Z" done=false', "RUNNING"),
                (104, "end_time > 2024-05-01T12:00:01Z", "SUCCEEDED"),
                (104, "end_time != 2024-05-01T12:00:00Z", "SUCCEEDED"),
                (104, "start_time:*", "RUNNING SUCCEEDED"),
                (104, "update_time < 2024-01-01T00:00:00Z", ""),
                (104, "expire_time:*", ""),
                (104, "cancel_requested_time:*", "DEAD"),
                (104, "state=RUNNING", "RUNNING"),
                (104, "state=(FAILED OR CANCELLED)", "DEAD CANCELLED"),
                (104, "state!=RUNNING", "SUCCEEDED DEAD CANCELLED"),
                (104, "state:*", "RUNNING SUCCEEDED DEAD CANCELLED"),
                (104, "dead_letter=true", "DEAD"),
                (104, "attempt>=1", "RUNNING"),
                (104, "retried_from=operations/old", "DEAD"),
                (104, "target=photos/*", "RUNNING"),
                (104, "target!=photos/1", "SUCCEEDED DEAD CANCELLED"),
                (
                    104,
                    "verb=outlastapi.imaging.v1.ImagingService/ProcessImage done=false",
                    "RUNNING",
                ),
                (104, "verb=*/Other", ""),
                (104, "metadata.attempt=1", "RUNNING"),
                (108, "metadata.percent!=3", ""),
                (105, "done=true AND state=FAILED OR state=CANCELLED", "DEAD CANCELLED"),
                (105, "done=true and state=FAILED", ""),
                (105, "processimage done=false", "RUNNING"),
                (105, "abc -done=true", "RUNNING"),
            ]
        ),
    ],
)
def test_operations_are_found(written, expected):
    assert matching(written) == set(expected.split())


def test_a_bare_literal_is_looked_for_in_name_verb_and_target_only():
    assert matching("PHOTOS/1/oper") == set(ALL)
    assert matching("imagingservice") == set(ALL)
    found = compile_filter(parse("lake"), operation_schema())
    assert found(operation(target="photos/lake"))
    assert not found(
        operation(error=Status(Code.INTERNAL, "lake"), retried_from="lake", principal="lake")
    )


@pytest.mark.assertion(106)
@pytest.mark.parametrize(
    "written",
    [
        "colour=red",
        "done=maybe",
        "done>false",
        "state=SLEEPING",
        "state=running",
        "create_time>yesterday",
        "error=1",
        "error.code=NONE",
        "error.zz=1",
        "response.value=1",
        "response.@type<a",
        "metadata.zz=1",
        "metadata=1",
        "name.x=1",
        "principal=me",
        "request_id=1",
        "parent=x",
    ],
)
def test_what_is_not_a_field_or_a_value_of_its_type_is_refused(written):
    with pytest.raises(InvalidFilterError) as caught:
        matching(written)
    assert caught.value.field == "filter"


def test_without_a_metadata_schema_there_is_its_type():
    schema = operation_schema()
    assert compile_filter(parse("metadata.@type:* AND metadata:*"), schema)(RUNNING)
    with pytest.raises(InvalidFilterError):
        compile_filter(parse("metadata.percent=1"), schema)


def states(*values):
    return Conditions(states=frozenset(State(value) for value in values))


DONE = states("SUCCEEDED", "FAILED", "CANCELLED")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", Conditions()),
        ("abc", Conditions()),
        ("done=true", DONE),
        ("done:*", DONE),
        ("NOT done=false", DONE),
        ("done!=false", DONE),
        ("-done=true", states("PENDING", "RUNNING")),
        ("state=RUNNING", states("RUNNING")),
        ("state=(RUNNING OR PENDING)", states("RUNNING", "PENDING")),
        ("state!=RUNNING done=false", states("PENDING")),
        ("done=true state=RUNNING", states()),
        ("done=true OR state=PENDING OR state=RUNNING", Conditions()),
        ("done=true OR abc", Conditions()),
        ("NOT (done=true OR abc)", states("PENDING", "RUNNING")),
        ("NOT (done=true AND abc)", Conditions()),
        ("NOT abc", Conditions()),
        ("(abc (state=FAILED name=x))", states("FAILED")),
        ("metadata.state=RUNNING", Conditions()),
        ("verb=a.B/C", Conditions(method="a.B/C")),
        ('verb:"a.B/C" done=true', Conditions(states=DONE.states, method="a.B/C")),
        ("(verb=x abc)", Conditions(method="x")),
        ("verb=a*", Conditions()),
        ("verb:*", Conditions()),
        (r"verb='a\*'", Conditions(method="a*")),
        ("verb!=x", Conditions()),
        ("verb>x", Conditions()),
        ("NOT verb=x", Conditions()),
        ("verb=x OR verb=y", Conditions()),
        ("dead_letter=true", Conditions(dead_letter=True)),
        ("NOT dead_letter=true", Conditions(dead_letter=False)),
        ("dead_letter=true OR dead_letter=false", Conditions()),
        ("dead_letter=true dead_letter=false", Conditions()),
    ],
)
def test_what_a_store_can_test_is_narrowed_down(written, expected):
    assert conditions(parse(written)) == expected


simples = st.sampled_from(
    [
        "done=true",
        "done:false",
        "done!=true",
        "state=RUNNING",
        "state!=FAILED",
        "state:*",
        "state=(PENDING OR SUCCEEDED)",
        "state:(NOT CANCELLED)",
        "verb=a/B",
        "verb:a/C",
        "verb!=a/B",
        "verb=a/*",
        "dead_letter=true",
        "dead_letter!=true",
        "dead_letter:*",
        "error:*",
        "error.code=1",
        "a/b",
        "*",
    ]
)


def combined(inner):
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds("NOT ({})".format, inner),
        st.builds("({})".format, several.map(" OR ".join)),
        several.map(" AND ".join),
    )


filters = st.recursive(simples, combined, max_leaves=8)
state_filters = st.recursive(
    simples.filter(lambda each: each.startswith(("done", "state"))), combined, max_leaves=8
)
operations = st.builds(
    operation,
    state=st.sampled_from(State),
    method=st.sampled_from(["a/B", "a/C"]),
    dead_letter=st.booleans(),
    error=st.sampled_from([None, Status(Code.CANCELLED, ""), Status(Code.INTERNAL, "")]),
)


@given(filters, st.lists(operations, min_size=1, max_size=20))
def test_narrowing_loses_no_match(written, records):
    expression = parse(written)
    predicate = compile_filter(expression, operation_schema())
    narrowed = conditions(expression)
    event(f"narrowed: {narrowed != Conditions()}")
    for record in filter(predicate, records):
        assert narrowed.accept(record)


@given(state_filters)
def test_narrowing_is_exact_for_filters_on_the_state_alone(written):
    expression = parse(written)
    predicate = compile_filter(expression, operation_schema())
    for state in State:
        record = operation(state=state)
        assert conditions(expression).accept(record) is predicate(record)
