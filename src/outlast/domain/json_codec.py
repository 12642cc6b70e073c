"""Statuses and progress as JSON text, the form in which stores keep them."""

import json
from base64 import b64decode, b64encode
from datetime import datetime

from outlast.domain.operation import Progress
from outlast.domain.status import Code, Payload, Status


def status_to_json(status: Status) -> str:
    """Write a status down."""
    details = [[detail.type_url, b64encode(detail.value).decode()] for detail in status.details]
    return json.dumps([int(status.code), status.message, details, status.reason])


def status_from_json(text: str) -> Status:
    """Read a status back."""
    code, message, details, reason = json.loads(text)
    payloads = tuple(Payload(type_url, b64decode(value)) for type_url, value in details)
    return Status(Code(code), message, payloads, reason)


def progress_to_json(progress: Progress) -> str:
    """Write a progress down."""
    end = progress.estimated_end_time
    return json.dumps(
        [
            progress.completed,
            progress.total,
            progress.stage,
            progress.message,
            end.isoformat() if end else None,
        ]
    )


def progress_from_json(text: str) -> Progress:
    """Read a progress back."""
    completed, total, stage, message, end = json.loads(text)
    return Progress(completed, total, stage, message, datetime.fromisoformat(end) if end else None)
