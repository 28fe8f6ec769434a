"""Results kept by the contents that they were computed from, so that equal contents are computed once in a process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")


class Memory(Generic[Result]):
    """The last ``size`` results. It holds keys and results, not what they were computed from."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[Hashable, Result] = {}

    def recall(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """The result that is kept under ``key``; where there is none, that of ``compute``, kept from now on."""
        if key not in self._kept:
            result = compute()
            if len(self._kept) >= self._size:
                del self._kept[next(iter(self._kept))]  # dictionaries are in the order of insertion
            self._kept[key] = result
        return self._kept[key]


def content_key(*arrays: NDArray[Any]) -> bytes:
    """16 bytes that stand for dtypes, shapes and values of arrays (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
