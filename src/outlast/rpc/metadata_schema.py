"""What a filter may name of metadata messages, read from their descriptors."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass

from outlast.domain.filter import (
    Enumeration,
    Field,
    FixedSchema,
    Kind,
    Map,
    Message,
    Repeated,
    Scalar,
    Schema,
    Type,
    UnionSchema,
)
from outlast.domain.operation import Operation
from outlast.rpc.codec import Codec
from outlast.rpc.errors import TYPE_PREFIX

_Getter = Callable[[Any], Any]

_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: Scalar(Kind.BOOL),
    FieldDescriptor.CPPTYPE_INT32: Scalar(Kind.INT),
    FieldDescriptor.CPPTYPE_INT64: Scalar(Kind.INT),
    FieldDescriptor.CPPTYPE_UINT32: Scalar(Kind.INT),
    FieldDescriptor.CPPTYPE_UINT64: Scalar(Kind.INT),
    FieldDescriptor.CPPTYPE_FLOAT: Scalar(Kind.FLOAT),
    FieldDescriptor.CPPTYPE_DOUBLE: Scalar(Kind.FLOAT),
    FieldDescriptor.CPPTYPE_STRING: Scalar(Kind.STRING),
}
_ANY = FixedSchema({"@type": Field(Scalar(Kind.TYPE_URL), lambda value: value.type_url)})


def metadata_schema(type_urls: Iterable[str], codec: Codec) -> Schema:
    """Return the union of the schemas of some metadata types; its records are Operations."""
    pool = descriptor_pool.Default()
    return UnionSchema(
        tuple(
            _MetadataSchema(
                type_url, pool.FindMessageTypeByName(type_url.removeprefix(TYPE_PREFIX)), codec
            )
            for type_url in sorted(set(type_urls))
        )
    )


class _MetadataSchema:
    """The metadata of operations whose metadata is of one type."""

    def __init__(self, type_url: str, descriptor: Descriptor, codec: Codec) -> None:
        self._type_url = type_url
        self._message = _MessageSchema(descriptor)
        self._parse = GetMessageClass(descriptor).FromString
        self._codec = codec
        self._parsed: tuple[Operation, ProtoMessage] | None = None

    def fields(self, name: str) -> Sequence[Field]:
        return [
            Field(field.type, self._of_operation(field.get)) for field in self._message.fields(name)
        ]

    def _of_operation(self, get: _Getter) -> _Getter:
        def of_operation(operation: Operation) -> Any:
            if operation.metadata.type_url != self._type_url:
                return None
            if self._parsed is None or self._parsed[0] is not operation:
                value = self._codec.metadata(operation).value
                self._parsed = operation, self._parse(value)
            return get(self._parsed[1])

        return of_operation


class _MessageSchema:
    """The fields of a message type."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    def fields(self, name: str) -> Sequence[Field]:
        field = self._descriptor.fields_by_name.get(name)
        if field is None:
            return ()
        kind = _type(field)
        return () if kind is None else (Field(kind, _getter(field)),)


def _type(field: FieldDescriptor) -> Type | None:
    """Return the type of a field; None for bytes, which a filter cannot name."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        key, value = _single(entry["key"]), _single(entry["value"])
        return Map(key, value) if isinstance(key, Scalar) and value is not None else None
    single = _single(field)
    return Repeated(single) if field.is_repeated and single is not None else single


def _single(field: FieldDescriptor) -> Scalar | Enumeration | Message | None:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return None
    if field.enum_type is not None:
        return _enumeration(field.enum_type)
    if field.message_type is None:
        return _SCALARS[field.cpp_type]
    match field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return Scalar(Kind.TIMESTAMP)
        case "google.protobuf.Duration":
            return Scalar(Kind.DURATION)
        case "google.protobuf.Any":
            return Message(_ANY)
        case _:
            return Message(_MessageSchema(field.message_type))


def _enumeration(enum: EnumDescriptor) -> Enumeration:
    return Enumeration(tuple(enum.values_by_name), enum.values_by_number[0].name)


def _getter(field: FieldDescriptor) -> _Getter:
    """Return what reads a field of a message: None if it is not set."""
    name = field.name
    convert = _conversion(field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = _conversion(field.message_type.fields_by_name["value"])
        return lambda message: {
            key: of_value(value) for key, value in getattr(message, name).items()
        }
    if field.is_repeated:
        return lambda message: [convert(value) for value in getattr(message, name)]
    if field.has_presence:
        return lambda message: convert(getattr(message, name)) if message.HasField(name) else None
    return lambda message: convert(getattr(message, name))


def _conversion(field: FieldDescriptor) -> _Getter:
    if field.enum_type is not None:
        numbers = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: numbers.get(number, str(number))
    match field.message_type and field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return lambda value: value.ToDatetime(tzinfo=UTC)
        case "google.protobuf.Duration":
            return lambda value: value.ToTimedelta()
        case _:
            return lambda value: value
