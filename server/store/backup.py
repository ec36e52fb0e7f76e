"""Backup format: all records of a store as lines of JSON, the same for every store."""

import json
from collections.abc import Iterable, Iterator

from pydantic import TypeAdapter, ValidationError

from server.store.base import BadStore
from server.store.models import SESSION, Record

FORMAT = {"tiller": "backup", "version": 1}
"""The first line; the last one has the number of records."""
_RECORD = TypeAdapter(Record)


def lines(records: Iterable[Record]) -> Iterator[str]:
    """The lines of a backup."""
    n = 0
    yield json.dumps(FORMAT)
    for n, record in enumerate(records, 1):  # noqa: B007 - told at the end
        yield json.dumps({"kind": record.kind, "value": record.value}, ensure_ascii=False)
    yield json.dumps({"records": n})


def read(text: str) -> list[Record]:
    """The records of a backup. Raises BadStore for another format, a newer version, or a truncated file."""
    rows = text.rstrip("\n").split("\n")  # messages may contain other line ends
    try:
        first, *middle, last = [json.loads(row) for row in rows]
        records = [_RECORD.validate_python(row) for row in middle]
    except (ValueError, ValidationError, RecursionError) as error:
        raise BadStore("this is not a backup, or its end is missing") from error
    if not isinstance(first, dict) or first.get("tiller") != "backup":
        raise BadStore("this is not a backup of Tiller")
    if first.get("version") != FORMAT["version"]:
        raise BadStore("this backup was made by a newer version of Tiller; update")
    if last != {"records": len(records)}:
        raise BadStore(f"this backup is cut off: {len(records)} records, and its last line does not say so")
    return records_to_keep(records)


def records_to_keep(records: Iterable[Record]) -> list[Record]:
    """Records for a backup: all but the secret that signs session cookies, which could be used to forge some."""
    return [r for r in records if not (r.kind == "setting" and r.value.get("key") == SESSION)]
