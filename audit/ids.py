"""Record ids: UUIDv7 with microseconds.

48 bits of Unix milliseconds, then the microseconds of that millisecond in `rand_a` (RFC 9562, section 6.2, method 3, in
decimal instead of binary fractions: the partition time is read back exactly), then 62 random bits. Within a process ids grow
strictly; a clock that steps back by less than `MAX_STEP_BACK_US` is waited out by counting on.
"""

import os
import time
from binascii import hexlify
from collections.abc import Callable

MAX_STEP_BACK_US = 1_000_000  # beyond this the clock was set, not slewed: follow it

_VARIANT = 2 << 62
_RANDOM_62 = (1 << 62) - 1
_POOL_IDS = 512


class IdSource:
    """Makes ids. Not safe to share between threads: each thread that needs ids has its own source."""

    def __init__(self, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now_us = now_us
        self._last_us = -1
        self._pool = b""
        self._place = 0

    def new(self) -> bytes:
        """A new id, 16 bytes, greater than the one before."""
        now = self._now_us()
        last = self._last_us
        if now <= last and last - now < MAX_STEP_BACK_US:
            now = last + 1
        self._last_us = now
        place = self._place
        if place >= len(self._pool):
            self._pool = os.urandom(8 * _POOL_IDS)
            place = 0
        self._place = place + 8
        random_62 = int.from_bytes(self._pool[place : place + 8], "big") & _RANDOM_62
        milliseconds, microseconds = divmod(now, 1000)
        return (((milliseconds & 0xFFFFFFFFFFFF) << 16 | 0x7000 | microseconds) << 64 | _VARIANT | random_62).to_bytes(16, "big")


_source = IdSource()
new_id = _source.new  # for the gateway's loop thread


def time_us(record_id: bytes) -> int:
    """The time inside an id, µs since 1970. Ids made elsewhere may carry more than 999 in `rand_a`: that counts as 999."""
    number = int.from_bytes(record_id[:8], "big")
    below = number & 0xFFF
    return (number >> 16) * 1000 + (below if below < 1000 else 999)


def is_record_id(record_id: bytes) -> bool:
    return len(record_id) == 16 and record_id[6] >> 4 == 7 and record_id[8] >> 6 == 2


def text(record_id: bytes) -> str:
    """The usual hyphenated form."""
    digits = hexlify(record_id).decode()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
