"""W3C trace context: who caused a call, and what its answer says.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from binascii import hexlify
from typing import Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


def parse_trace(traceparent: str | None) -> tuple[bytes, bytes] | None:
    """The caller's trace id, 16 bytes, and flags; None where there is none or it breaks the rules."""
    if traceparent is None or (found := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or trace == _NO_TRACE or span == _NO_SPAN or (version == "00" and rest):
        return None
    return bytes.fromhex(trace), flags.encode()


def format_trace(trace: bytes, flags: bytes, record_id: bytes) -> bytes:
    """The answer's header: the span is the random half of the record's id, so that a trace leads to its record."""
    return b"00-%b-%b-%b" % (hexlify(trace), hexlify(record_id[8:]), flags)
