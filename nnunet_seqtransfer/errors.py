"""Errors that a user can act on. Every command prints one line per problem and exits with status 2."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class SeqTransferError(Exception):
    """Base class. The message is one line: what is wrong with which value or file, then what to do."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line each."""
        return (" ".join(str(self).split()),)


class EnvironmentNotSetError(SeqTransferError):
    """An environment variable of nnU-Net is not set, or names a folder that does not exist."""


class DatasetError(SeqTransferError):
    """A dataset is unknown, ambiguous, incomplete, broken, or does not fit the request."""


class RecordError(SeqTransferError):
    """One of our JSON or NPZ files is truncated, edited, of a newer format, or of another kind."""


class SequenceError(SeqTransferError):
    """The request allows no sequence of sources."""


class CheckpointError(SeqTransferError):
    """A checkpoint is truncated, unsafe to load, or does not fit the network."""


class StageError(SeqTransferError):
    """A stage cannot start, or has failed."""


class Problems(SeqTransferError):  # noqa: N818 - a collection of errors
    """Several problems of one request, reported together."""

    def __init__(self, errors: Iterable[SeqTransferError | str]) -> None:
        lines = [error.problems if isinstance(error, SeqTransferError) else (error,) for error in errors]
        # One problem often has several causes in the checks: each line is reported once, in the order of the checks.
        self._problems = tuple(dict.fromkeys(line for group in lines for line in group))
        super().__init__("; ".join(self._problems))

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line each."""
        return self._problems


@contextmanager
def collecting(errors: list[SeqTransferError]) -> Iterator[None]:
    """Append the SeqTransferError that ends the block to ``errors`` and continue after the block.

    Put each independent check into a block of its own, then call `raise_collected`.
    """
    try:
        yield
    except SeqTransferError as error:
        errors.append(error)


def raise_collected(errors: Sequence[SeqTransferError]) -> None:
    """Raise the collected errors: a single one as it is, several as `Problems`. Do nothing if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Problems(errors)


def reason_of(error: Exception) -> str:
    """Return the last line of a library's message, at most 200 characters, or the error type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
