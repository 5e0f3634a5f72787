"""Event files as TensorBoard reads them: an append is one write, and the file is closed again.

Source: TensorFlow's TFRecord format, and TensorBoard's `event.proto`.
"""

import errno
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams


def new_file(run: Path) -> Path:
    """Return the name of a run's next event file; TensorBoard reads them in the order of their names."""
    n_files = sum(1 for _ in run.glob("events.out.tfevents.*"))
    return run / f"events.out.tfevents.{n_files:010d}.consilia"


def opening(step: int) -> list[Event]:
    """Return the first events of a file: they make readers forget what earlier files of the run say from `step` on."""
    return [_event(file_version="brain.Event:2"), _event(step=step, session_log=SessionLog(status=SessionLog.START))]


def scalars(step: int, values: Mapping[str, float]) -> Event:
    """Return the event of an epoch."""
    return _event(
        step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=values[tag]) for tag in values])
    )


def _event(**fields: object) -> Event:
    return Event(wall_time=time.time(), **fields)


def configuration(values: Mapping[str, object], score: Mapping[str, float]) -> Iterator[Event]:
    """Yield what TensorBoard compares under "HParams"."""
    for summary in hparams(values, score):
        yield _event(summary=summary)


def append(file: Path, events: Sequence[Event]) -> None:
    """Write events to the end of a file.

    Raises:
        OSError: Not all of them could be written.
    """
    records = b"".join(_record(event.SerializeToString()) for event in events)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as stream:
        n_written = stream.write(records)
    if n_written != len(records):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def _record(data: bytes) -> bytes:
    """Return a TFRecord: length, its checksum, data, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
