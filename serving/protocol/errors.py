"""Errors of the codecs: the caller's body cannot become a request, or the model's answer cannot become a body.

ProtocolError            INVALID_ARGUMENT
└── UnsupportedType      UNIMPLEMENTED: an element type that the protocol has no form for

They know nothing of HTTP or gRPC: `code` is one of the names of google.rpc.Code, and each door translates it.
"""

from typing import ClassVar


class ProtocolError(Exception):
    """`message` is the text that the protocol's reference implementation gives for the same fault."""

    code: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnsupportedType(ProtocolError):
    code: ClassVar[str] = "UNIMPLEMENTED"
