"""One event file that can be cut back to an earlier length and gone on with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hookline import Problem, RunError, make_directory, name_aside, sync_directory

__all__ = ["EventFile"]


class EventFile:
    """The file at ``path``, which holds what was written before ``offset`` and nothing else.

    There is no file before the first ``append``, and no directory for it.

    Args:
        path: Where it is; TensorBoard reads a file with ``tfevents`` in its name.
        offset: Its length in bytes, all that follows is cut off; 0 begins anew.
        writer: The name of the writer whose file it is, for messages.

    Raises:
        RunError: If the file is shorter than ``offset``.
    """

    def __init__(self, path: Path, offset: int, writer: str) -> None:
        # Here and not at the first event: it takes 30 ms, which iterations would have to share.
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._records = RecordWriter
        self.path, self._writer = path, writer
        self.offset = offset
        self._file: io.FileIO | None = None
        self._is_synced = True
        if offset:
            self._go_on()

    def put_aside(self, generation: int) -> None:
        """Move what is there to ``events.orphaned-<generation>.hookline``.

        TensorBoard reads every file with ``tfevents`` in its name, and would show it beside the new one.
        """
        if self.path.exists():
            os.rename(self.path, name_aside(self.path.with_name("events.hookline"), generation))
            sync_directory(self.path.parent)

    def append(self, events: Iterable[Any]) -> None:
        """Write all of ``events`` (protos), or none of them and raise; they are durable after ``sync``."""
        if self._file is None:
            make_directory(self.path.parent)
            self._file = io.FileIO(self.path, "w")
            sync_directory(self.path.parent)
        buffer = io.BytesIO()
        records = self._records(buffer)
        for event in events:
            records.write(event.SerializeToString())
        try:
            self._write(buffer.getbuffer())
        except OSError:
            # A record that is torn hides from readers all that follows it.
            self._cut_to(self.offset)
            raise
        self.offset += buffer.tell()

    def sync(self) -> None:
        """Make durable what was written."""
        if self._file is not None and not self._is_synced:
            os.fsync(self._file.fileno())
            self._is_synced = True

    def close(self) -> None:
        """Free the file; nothing can be appended any more, and what was not synced may be lost."""
        if self._file is not None:
            self._file.close()

    def _go_on(self) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self.offset:
            rule = f"the {self.offset} bytes that the checkpoint knows of"
            got = f"{size} bytes" if self.path.exists() else "no file"
            exists = "It was cut, replaced or removed since"
            fix = f"Put it back, or leave the writer out: writers-={self._writer} plugins.on_change=warn"
            raise RunError(str(Problem(str(self.path), rule, got, exists=exists, fix=fix)))
        self._file = io.FileIO(self.path, "r+")
        self._cut_to(self.offset)

    def _write(self, content: memoryview) -> None:
        assert self._file is not None
        self._is_synced = False
        while content:
            content = content[self._file.write(content) or 0 :]

    def _cut_to(self, size: int) -> None:
        assert self._file is not None
        self._is_synced = False
        self._file.truncate(size)
        self._file.seek(size)
