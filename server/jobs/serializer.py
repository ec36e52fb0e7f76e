"""Queue serializer: stores a job as its id in JSON.

huey's default is pickle, with which anyone with write access to the queue could execute code in the
trainer.
"""

import json
import re
from typing import Any

from huey.registry import Message
from huey.serializer import Serializer

NAME = re.compile(r"job_[0-9a-f]{16}")


class JobMessageSerializer(Serializer):
    """Serializes messages that contain one job id."""

    def _serialize(self, data: Message) -> bytes:
        (job_id,) = data.args
        return json.dumps({"id": data.id, "task": data.name, "job": job_id}).encode()

    def _deserialize(self, data: bytes) -> Message:
        """Raises ValueError for any other message."""
        try:
            found: Any = json.loads(data)
            message_id, task, job_id = (str(found[key]) for key in ("id", "task", "job"))
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError("not about a job") from error
        if not NAME.fullmatch(job_id):
            raise ValueError(f"{job_id[:40]!r} is not a job id")
        return Message(message_id, task, args=(job_id,), kwargs={}, retries=0, retry_delay=0)
