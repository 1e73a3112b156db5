"""A machine whose clock is wrong by `ODD_CLOCK_S` seconds. Python imports this at start from wherever PYTHONPATH says."""

import os
import time

_off_s = float(os.environ["ODD_CLOCK_S"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _off_s
time.time_ns = lambda: _time_ns() + int(_off_s * 1e9)
