"""A live alliance's whole state as bytes and back, so that a restart need not replay the log from its beginning.

The bytes are a form of the state alone: two alliances that have come to the same state by other ways, one from the log's
beginning and one from earlier such bytes, have the same. There is nothing in them that is carried out when they are read.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.live import Alliance
from dure.model.errors import DureError, InputError

#: Grows when the form changes.
FORMAT = 6
#: Arrays that hold nothing from one step to the next.
_SCRATCH = frozenset({"pick", "cost", "dec"})
_LENGTH = struct.Struct("<Q")


class SnapshotError(DureError):
    """These bytes are no snapshot, or one of another form, of another alliance or of another layout of the state."""


def pack(alliance: Alliance) -> bytes:
    """The state of an alliance at rest."""
    registers, arrays = alliance.kept()
    kept = {name: array for name, array in arrays.items() if name not in _SCRATCH}
    head = {
        "format": FORMAT, "registers": registers,
        "arrays": [[name, _layout(array), list(array.shape)] for name, array in kept.items()],
    }  # fmt: skip
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *(array.tobytes() for array in kept.values())))


def squeeze(body: bytes) -> bytes:
    """Packed bytes for keeping: mostly zeros and repetitions, made small fast."""
    return zlib.compress(body, 1)


def expand(kept: bytes) -> bytes:
    """The inverse of `squeeze`.

    Raises
    ------
    SnapshotError
        They were not made by it.
    """
    try:
        return zlib.decompress(kept)
    except zlib.error as error:
        raise SnapshotError(f"cannot be read: {error}") from None


def unpack(alliance: Alliance, body: bytes) -> None:
    """Bring an alliance on which nothing has happened yet to the state in packed bytes.

    Raises
    ------
    SnapshotError
        They do not fit it. What became of the alliance is then not to be used.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        if head["format"] != FORMAT:
            raise SnapshotError(f"form {head['format']}, not {FORMAT}")
        _, own = alliance.kept()
        if {name for name, _, _ in head["arrays"]} != set(own) - _SCRATCH:
            raise SnapshotError("other tables")
        arrays, at = {}, _LENGTH.size + length
        for name, layout, shape in head["arrays"]:
            mine = own[name]
            if layout != _layout(mine) or len(shape) != mine.ndim or any(size < 0 for size in shape):
                raise SnapshotError(f"table {name!r} has another layout")
            num = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(body, mine.dtype, num, at).reshape(shape)
            at += arrays[name].nbytes
        if at != len(body):
            raise SnapshotError("more than there should be")
        alliance.put_back(head["registers"], arrays)
    except SnapshotError:
        raise
    except InputError as error:
        raise SnapshotError(f"other sites: {error}") from None
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SnapshotError(f"cannot be read: {error}") from None


def _layout(array: NDArray[Any]) -> Any:
    """Names, types and places of an array's fields."""
    return json.loads(json.dumps(array.dtype.descr))
