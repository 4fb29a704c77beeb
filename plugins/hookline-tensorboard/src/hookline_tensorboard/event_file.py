"""One event file that can be cut back to an earlier length and gone on with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hookline import Problem, WriterError, make_directory, sync_directory

__all__ = ["EventFile"]


class EventFile:
    """The file at ``path``, which holds what was written before ``offset`` and nothing else.

    There is no file before the first ``append``, and no directory for it.

    Args:
        path: Where it is; TensorBoard reads a file with ``tfevents`` in its name.
        offset: Its length in bytes, all that follows is cut off; 0 begins anew.

    Raises:
        WriterError: If the file is shorter than ``offset``.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        # Here and not at the first event: it takes 30 ms, which iterations would have to share.
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._records = RecordWriter
        self.path = path
        self.offset = offset
        self._file: io.FileIO | None = None
        self._is_synced = True
        if offset:
            self._go_on()

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
            raise WriterError(
                str(
                    Problem(
                        str(self.path),
                        f"at least the {self.offset} bytes that the checkpoint knows",
                        f"{size} bytes" if size else "no file",
                        exists="It was shortened, replaced or removed since",
                        fix="Put it back, or take tensorboard out of `writers`",
                    )
                )
            )
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
