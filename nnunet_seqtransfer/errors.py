"""The mistakes that a user can cause and act on; every command turns them into one line and exit status 2."""


class SeqTransferError(Exception):
    """Base of all errors that a user can act on. The message is one line: what is wrong, where, what to do."""


class EnvironmentNotSetError(SeqTransferError):
    """An environment variable that nnU-Net needs is not set, or names a folder that does not exist."""


class DatasetError(SeqTransferError):
    """A dataset is unknown, ambiguous, incomplete, broken, or not made for what was asked."""


class RecordError(SeqTransferError):
    """One of our JSON or NPZ files is truncated, edited, of a newer format, or made for something else."""


class SequenceError(SeqTransferError):
    """No sequence can be planned from what was given."""


class CheckpointError(SeqTransferError):
    """A checkpoint is truncated, unsafe to load, or does not fit the network it was meant for."""


class StageError(SeqTransferError):
    """A stage of a chain cannot be started, or has failed."""
