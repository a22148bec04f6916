"""What simple models and a compressor make of the same held-out text; draws the picture with them after `train.py`."""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

import numpy as np
from corpus import read_corpus

from dure.client import job
from dure.whole_file import whole_file

#: Contexts of so many bytes at most.
ORDERS = (3, 5)


def counted_bits(train: np.ndarray, held_out: np.ndarray, order: int) -> float:
    """Bits per byte of a model that counts what followed each context of `order` bytes, and of fewer, in `train`.

    Witten–Bell smoothing (IEEE Trans. Inf. Theory 37(4), 1991, method C), from the empty context up:
    p(b | context) = (n(context, b) + d(context) · p(b | shorter)) / (n(context) + d(context)), d: how many different bytes
    followed it. Every byte of `held_out` but the first `order` is foretold.

    Parameters
    ----------
    order : int
        At most 7: a context and its byte are one 64-bit key.
    """
    chance = np.full(len(held_out) - order, 1 / 256)
    for length in range(order + 1):
        pairs, num_pairs = np.unique(_keys(train, length + 1), return_counts=True)
        contexts, first, followers = np.unique(pairs >> np.uint64(8), return_index=True, return_counts=True)
        num_contexts = np.add.reduceat(num_pairs, first)
        asked = _keys(held_out, length + 1)[order - length :]
        n_pair = _look_up(pairs, num_pairs, asked)
        n, d = (_look_up(contexts, counts, asked >> np.uint64(8)) for counts in (num_contexts, followers))
        is_known = n > 0
        chance[is_known] = ((n_pair + d * chance) / np.maximum(n + d, 1))[is_known]
    return float(-np.log2(chance).mean())


def _keys(text: np.ndarray, length: int) -> np.ndarray:
    keys = np.zeros(len(text) - length + 1, dtype=np.uint64)
    for place in range(length):
        keys = (keys << np.uint64(8)) | text[place : place + len(keys)]
    return keys


def _look_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)


def compressed_bits(train: np.ndarray, held_out: np.ndarray) -> float:
    """Bits per byte by which `held_out` lengthens what xz makes of `train`; its memory holds all of both."""
    dictionary = 1 << max(16, (len(train) + len(held_out)).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    alone, both = (len(lzma.compress(text, filters=filters)) for text in (train.tobytes(), train.tobytes() + held_out.tobytes()))
    return 8 * (both - alone) / len(held_out)


def main() -> None:
    """Compare, and draw the picture anew where a run has left its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--text", default="", help="as in train.py")
    parser.add_argument("--pattern", default="*.py", help="as in train.py")
    options = parser.parse_args()
    corpus = read_corpus(options.text, options.pattern, ORDERS[-1])
    reached = {f"order {order}, counted": counted_bits(corpus.train, corpus.held_out, order) for order in ORDERS}
    reached["xz -9e"] = compressed_bits(corpus.train, corpus.held_out)
    folder = job.output_dir("state/output")
    sizes = {"train_bytes": len(corpus.train), "held_out_bytes": len(corpus.held_out), "text": corpus.digest}
    with whole_file(folder / "comparison.json") as draft:
        draft.write_text(json.dumps({**sizes, "bits_per_byte": reached}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({**sizes, **reached}))
    if (folder / "result.json").exists():
        redraw(folder, reached)


def redraw(folder: Path, others: dict[str, float]) -> None:
    """The picture of `train.py` with what others reach."""
    from result import plot

    losses = np.loadtxt(folder / "curve.csv", delimiter=",", skiprows=1, usecols=1, ndmin=1)
    plot(folder / "result.png", losses, json.loads((folder / "result.json").read_text(encoding="utf-8")), others)


if __name__ == "__main__":
    main()
