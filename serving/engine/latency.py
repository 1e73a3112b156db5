"""How long a run takes, learned: seconds = a·rows + b.

Weighted least squares over the runs seen, each new run fading the older ones, so that a neighbour's load or another machine
state is followed within some tens of runs.
"""

from typing import NamedTuple

FADE = 0.97  # about the last 30 runs count
MIN_RUNS = 5  # before that nothing is claimed: a first run compiles and allocates

MAX_SURPRISE = 8.0


class Line(NamedTuple):
    """Seconds of a run: `per_row`·rows + `fixed`."""

    per_row: float
    fixed: float

    def seconds(self, rows: int) -> float:
        return self.per_row * rows + self.fixed


class LatencyModel:
    """Learns one (servable, signature). Not thread-safe: its owner is the scheduler."""

    __slots__ = ("_line", "_rows", "_rows2", "_rows_seconds", "_seconds", "_weight", "num_runs")

    def __init__(self) -> None:
        self.num_runs = 0
        self._weight = self._rows = self._rows2 = self._seconds = self._rows_seconds = 0.0
        self._line: Line | None = None

    def observe(self, rows: int, seconds: float) -> None:
        """Take in one run of `rows` (padding included).

        One that took far longer than expected counts in part: a machine that stood still says nothing of the model, and one that
        has become slower is believed after some runs.
        """
        line = self.find_line()
        if line is not None:
            seconds = min(seconds, MAX_SURPRISE * line.seconds(rows) + 1e-3)
        self.num_runs += 1
        self._weight = self._weight * FADE + 1.0
        self._rows = self._rows * FADE + rows
        self._rows2 = self._rows2 * FADE + rows * rows
        self._seconds = self._seconds * FADE + seconds
        self._rows_seconds = self._rows_seconds * FADE + rows * seconds
        self._line = None

    def find_line(self) -> Line | None:
        """The line, with neither part negative; None before `MIN_RUNS` runs."""
        if self.num_runs < MIN_RUNS:
            return None
        if self._line is None:
            self._line = self._fit()
        return self._line

    def _fit(self) -> Line:
        mean_rows = self._rows / self._weight
        mean_seconds = self._seconds / self._weight
        variance = self._rows2 / self._weight - mean_rows * mean_rows
        if variance < 1e-3 * max(mean_rows * mean_rows, 1.0):
            return Line(0.0, mean_seconds)  # all runs were of one size: nothing is known about others
        slope = (self._rows_seconds / self._weight - mean_rows * mean_seconds) / variance
        slope = min(max(slope, 0.0), mean_seconds / mean_rows)
        return Line(slope, max(mean_seconds - slope * mean_rows, 0.0))
