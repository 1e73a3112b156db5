"""Latency sketches: quantiles within 1 % from a few hundred bytes, mergeable by addition.

The logarithmic mapping of DDSketch (Masson, Rim, Lee, VLDB 2019): a value x >= 1 counts in bin ceil(log_g x) with
g = (1 + a) / (1 - a), and a bin answers with 2g^i / (g + 1), never further than a = 1 % from any of its values. Values are whole µs
from 0 to a few hours, so at most some 1,200 bins exist and none need ever be collapsed. A batch is folded at once with NumPy
(0.05 µs a value; the ddsketch package takes 2 µs), and this module is the only place that knows the stored form:
one byte of version, eight of zeros' count, then bins as (int16 index, uint32 count), little-endian, indices rising.
"""

import math
import struct
from collections.abc import Iterable, Mapping

import numpy as np

ACCURACY = 0.01
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)
_VERSION = 1
_HEADER = struct.Struct("<BQ")
_BIN = np.dtype([("index", "<i2"), ("count", "<u4")])


class BadSketch(ValueError):
    """Bytes that aren't a sketch of this version."""


class Sketch:
    """Counts per logarithmic bin. Owned by one thread."""

    __slots__ = ("_bins", "_zeros")

    def __init__(self, zeros: int = 0, bins: Mapping[int, int] | None = None) -> None:
        self._zeros = zeros
        self._bins: dict[int, int] = dict(bins or {})

    @property
    def count(self) -> int:
        return self._zeros + sum(self._bins.values())

    def add(self, values_us: "np.ndarray | list[int]", weights: "np.ndarray | list[int] | None" = None) -> None:
        """Count whole µs; below 1 counts as zero. `weights` says how often each value occurred."""
        values = np.asarray(values_us, dtype=np.float64)
        positive = values >= 1
        indices = np.ceil(np.log(values[positive]) / _LOG_GAMMA - 1e-9).astype(np.int64)
        if weights is None:
            self._zeros += int(values.size - indices.size)
            counts = np.bincount(indices) if indices.size else np.zeros(0, dtype=np.int64)
        else:
            times = np.asarray(weights, dtype=np.int64)
            self._zeros += int(times[~positive].sum())
            # Sums in float64 are exact up to 2^53.
            counts = np.rint(np.bincount(indices, times[positive])).astype(np.int64) if indices.size else np.zeros(0, dtype=np.int64)
        for index in np.flatnonzero(counts):
            self._bins[int(index)] = self._bins.get(int(index), 0) + int(counts[index])

    def merge(self, other: "Sketch") -> None:
        self._zeros += other._zeros
        for index, count in other._bins.items():
            self._bins[index] = self._bins.get(index, 0) + count

    def quantile(self, q: float) -> int | None:
        """The value below which a share `q` lies, in µs within 1 %; None when nothing was counted."""
        total = self.count
        if not total:
            return None
        rank = q * (total - 1)
        seen = self._zeros
        if rank < seen:
            return 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if rank < seen:
                return round(2 * _GAMMA**index / (_GAMMA + 1))
        raise AssertionError("a rank below the count lies in some bin")

    def share_above(self, limit_us: int) -> float:
        """The share of values above `limit_us`, to the bin."""
        total = self.count
        if not total:
            return 0.0
        edge = math.ceil(math.log(limit_us) / _LOG_GAMMA) if limit_us >= 1 else -1
        return sum(count for index, count in self._bins.items() if index > edge) / total

    def encode(self) -> bytes:
        bins = np.array(sorted(self._bins.items()), dtype=_BIN) if self._bins else np.zeros(0, dtype=_BIN)
        return _HEADER.pack(_VERSION, self._zeros) + bins.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> "Sketch":
        """Raises BadSketch on bytes of another form; empty bytes are an empty sketch."""
        if not data:
            return cls()
        if len(data) < _HEADER.size or data[0] != _VERSION or (len(data) - _HEADER.size) % _BIN.itemsize:
            raise BadSketch(f"{len(data)} bytes starting {bytes(data[:4]).hex()} are no latency sketch")
        zeros: int = _HEADER.unpack_from(data)[1]
        bins = np.frombuffer(data, dtype=_BIN, offset=_HEADER.size)
        return cls(zeros, dict(zip(bins["index"].tolist(), bins["count"].tolist(), strict=True)))


def merged(parts: Iterable[bytes]) -> Sketch:
    """One sketch over all stored ones, vectorised: a chart merges thousands."""
    zeros = 0
    bodies: list[bytes] = []
    for part in parts:
        data = bytes(part)
        if not data:
            continue
        if len(data) < _HEADER.size or data[0] != _VERSION or (len(data) - _HEADER.size) % _BIN.itemsize:
            raise BadSketch(f"{len(data)} bytes starting {data[:4].hex()} are no latency sketch")
        zeros += _HEADER.unpack_from(data)[1]
        bodies.append(data[_HEADER.size :])
    bins = np.frombuffer(b"".join(bodies), dtype=_BIN)
    if not bins.size:
        return Sketch(zeros)
    counts = np.zeros(int(bins["index"].max()) + 1, dtype=np.int64)
    np.add.at(counts, bins["index"].astype(np.int64), bins["count"].astype(np.int64))
    filled = np.flatnonzero(counts)
    return Sketch(zeros, dict(zip(filled.tolist(), counts[filled].tolist(), strict=True)))
