"""Protobuf messages as JSON, also when nobody here knows some of their types."""

import base64
from typing import Any

from google.protobuf import any_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from outlast.cli.snapshot import Json

MAX_DEPTH = 32
"""How deep messages with unknown parts are taken apart."""

_ANY = any_pb2.Any.DESCRIPTOR.full_name

# MessageToDict raises TypeError for a type that it cannot find, ValueError or an Error of
# its own for a value without a JSON form, and the rest where a hostile message leads it.
_NOT_SHOWN = (TypeError, ValueError, json_format.Error, DecodeError, RecursionError)


def unpack(packed: any_pb2.Any, pool: DescriptorPool) -> Message | None:
    """Return the message in an Any; None if its type is unknown or its content broken."""
    try:
        descriptor = pool.FindMessageTypeByName(packed.type_url.rpartition("/")[2])
        return message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, TypeError, DecodeError):
        return None


def to_json(message: Message, pool: DescriptorPool) -> Any:
    """Return a message as proto JSON.

    An Any whose content cannot be shown becomes {"@type": …, "value": base64}. Raises
    ValueError if anything else has no JSON form.
    """
    try:
        return _to_json(message, pool, depth=0)
    except _NOT_SHOWN as error:
        raise ValueError(f"{message.DESCRIPTOR.full_name} has no JSON form: {error}") from error


def _to_json(message: Message, pool: DescriptorPool, depth: int) -> Any:
    try:
        return json_format.MessageToDict(message, descriptor_pool=pool)
    except _NOT_SHOWN:
        if message.DESCRIPTOR.full_name == _ANY:
            packed = any_pb2.Any.FromString(message.SerializeToString())
            return _any_to_json(packed, pool, depth)
        return _parts_to_json(message, pool, depth)


def _any_to_json(packed: any_pb2.Any, pool: DescriptorPool, depth: int) -> Json:
    content = unpack(packed, pool) if depth < MAX_DEPTH else None
    if content is not None:
        try:
            document = _to_json(content, pool, depth + 1)
        except _NOT_SHOWN:
            pass  # as if its type were unknown
        else:
            nested = {"value": document} if content.DESCRIPTOR.full_name == _ANY else document
            return {"@type": packed.type_url, **nested}
    return {"@type": packed.type_url, "value": base64.b64encode(packed.value).decode()}


def _parts_to_json(message: Message, pool: DescriptorPool, depth: int) -> Json:
    """Show each message inside a message by itself, and the rest as usual."""
    if depth >= MAX_DEPTH:
        raise ValueError(f"{message.DESCRIPTOR.full_name} is nested too deeply to be shown")
    rest = type(message)()
    rest.CopyFrom(message)
    parts: Json = {}
    for field, value in message.ListFields():
        entry = field.message_type
        if entry is None or field.is_extension:
            continue
        if entry.GetOptions().map_entry:
            if entry.fields_by_name["value"].message_type is None:
                continue
            part: Any = {
                _json_key(key): _to_json(each, pool, depth + 1) for key, each in value.items()
            }
        elif field.is_repeated:
            part = [_to_json(each, pool, depth + 1) for each in value]
        else:
            part = _to_json(value, pool, depth + 1)
        parts[field.json_name] = part
        rest.ClearField(field.name)
    return {**json_format.MessageToDict(rest, descriptor_pool=pool), **parts}


def _json_key(key: object) -> str:
    # JSON has strings only; a bool is true, not True.
    return str(key).lower() if isinstance(key, bool) else str(key)
