"""What HTTP says beside the protocol itself: compressed bodies and answers, and what a browser may read of them."""

import asyncio
import gzip
import zlib
from typing import Final

from .auth import Headers
from .errors import BadEncoding, BodyTooLarge

JSON: Final = ("content-type", "application/json")

GZIP_ANSWER_FROM: Final = 2048
INFLATE_IN_THREAD: Final = 8 * 1024  # which may hold a thousand times as much
_MAX_MEMBERS: Final = 64
_DEFLATE_IN_THREAD: Final = 128 * 1024


def is_gzipped(headers: Headers) -> bool:
    """Whether the body is compressed."""
    encoding = headers.get("content-encoding")
    return encoding is not None and "gzip" in encoding.lower()


def inflate(data: bytes, max_bytes: int) -> bytes:
    """The content of a gzip body of one or more members. Raises BadEncoding, BodyTooLarge (before more than that is held)."""
    parts: list[bytes] = []
    room = max_bytes
    at = 0
    while at < len(data):
        if len(parts) == _MAX_MEMBERS:
            raise BadEncoding(f"The gzip body has more than {_MAX_MEMBERS} members.")  # each costs a copy of what follows it
        stream = zlib.decompressobj(wbits=31)
        try:
            part = stream.decompress(memoryview(data)[at:], room + 1)
        except zlib.error as error:
            if parts:
                break  # whatever follows a member that isn't another one is padding
            raise BadEncoding(f"The body is not gzip: {error}") from None
        if len(part) > room:
            raise BodyTooLarge(f"The decompressed body is larger than {max_bytes >> 20} MB.")
        if not stream.eof:
            raise BadEncoding("The gzip body is cut off.")
        parts.append(part)
        room -= len(part)
        at = len(data) - len(stream.unused_data)
    return b"".join(parts)


async def gzip_answer(body: bytes) -> bytes:
    """The compressed answer."""
    if len(body) > _DEFLATE_IN_THREAD:
        return await asyncio.get_running_loop().run_in_executor(None, _deflate, body)
    return _deflate(body)


def takes_gzip(headers: Headers) -> bool:
    """Whether the caller accepts a compressed answer."""
    accepted = headers.get("accept-encoding")
    return accepted is not None and _accepts_gzip(accepted)


def _deflate(body: bytes) -> bytes:
    return gzip.compress(body, 1, mtime=0)


def _accepts_gzip(accepted: str) -> bool:
    for offer in accepted.lower().split(","):
        coding, _, quality = offer.partition(";")
        if coding.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def cors_headers(origin: str | None, site_origin: str) -> list[tuple[str, str]]:
    """Headers that let the site's pages, and no other site's, read the answer."""
    if not origin or origin != site_origin:
        return [("vary", "Origin")] if origin else []
    return [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", EXPOSED),
        ("vary", "Origin"),
    ]


EXPOSED: Final = "Daybook-Record, Daybook-Leaf, Daybook-Receipt, Daybook-Error, Server-Timing, traceparent, Retry-After"


def preflight_headers(origin: str, site_origin: str) -> list[tuple[str, str]]:
    headers = cors_headers(origin, site_origin)
    if origin == site_origin:
        headers += [
            ("access-control-allow-methods", "GET, POST, OPTIONS"),
            (
                "access-control-allow-headers",
                "Authorization, Content-Type, Daybook-Subject, Daybook-Timeout-Ms, Daybook-Try-It, X-API-Key, traceparent",
            ),
            ("access-control-max-age", "600"),
        ]
    return headers
