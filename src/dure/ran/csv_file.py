"""Tables as CSV, also gzipped, read row by row."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from dure.model.errors import InputError


def read_rows(path: str, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, value of each wanted column) of each row; other columns may be there.

    Raises
    ------
    InputError
        The file cannot be read, is no CSV, or lacks a column; names file, line and field.
    """
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from None
    except (EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"is neither UTF-8 text nor such text gzipped: {error}", path) from None
    reader = csv.reader(io.StringIO(text))
    try:
        header = next(reader, [])
        for name in wanted:
            if name not in header:
                raise InputError(f"no such column; the header has {', '.join(header) or 'nothing'}", path, 1, name)
        places = {name: header.index(name) for name in wanted}
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"has {len(cells)} values where the header has {len(header)}", path, reader.line_num)
            yield reader.line_num, {name: cells[place] for name, place in places.items()}
    except csv.Error as error:
        raise InputError(f"is no CSV: {error}", path, reader.line_num) from None
