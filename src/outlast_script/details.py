"""The details of an error that a script fails with."""

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

import outlast

_ERROR_INFO = error_details_pb2.ErrorInfo.DESCRIPTOR.full_name


def unpacked(detail: AnyProto) -> Message:
    """Return the message in a detail; raise KeyError for an unknown type, or DecodeError."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
    return GetMessageClass(descriptor).FromString(detail.value)


def failure(status: status_pb2.Status) -> outlast.OperationFailed:
    """Return the error that ends an operation with just this status."""
    others = [unpacked(each) for each in status.details if each.TypeName() != _ERROR_INFO]
    code = outlast.Code(status.code)
    for detail in status.details:
        if detail.TypeName() == _ERROR_INFO:
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            return outlast.OperationFailed(
                code,
                status.message,
                reason=info.reason,
                domain=info.domain,
                metadata=info.metadata,
                details=others,
            )
    return outlast.OperationFailed(code, status.message, reason="SCRIPT_FAILED", details=others)
