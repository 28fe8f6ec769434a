"""Output that nobody reads any more (a closed pipe or terminal) must not end a training."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_CLOSED = (errno.EPIPE, errno.EIO)
"""What writing to a pipe without a reader, and to a terminal that is gone, ends with."""


class LastingStream:
    """A text stream that goes on to nowhere once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's own; text that cannot be delivered is dropped."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """As the stream's own; text that cannot be delivered is dropped."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in _CLOSED:
            raise error
        # What is still buffered goes there too, now or when Python ends, and so do the words of child processes.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside the block a closed stdout or stderr raises nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if isinstance(stream, LastingStream) else LastingStream(stream) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
