"""What can go wrong in the engine, told by google.rpc.Code and by subject.

    EngineError
    ├── InvalidInput        INVALID_ARGUMENT     the caller's tensors or names don't fit the signature
    ├── UnknownServable     NOT_FOUND            no such model or version is loaded
    ├── UnknownSignature    INVALID_ARGUMENT     (code and text differ per door, see `gateway/errors.py`)
    ├── InvalidModel        FAILED_PRECONDITION  the files aren't a SavedModel that can be served
    ├── InvalidOptions      INVALID_ARGUMENT     a deployment's options contradict each other
    ├── QueueFull           RESOURCE_EXHAUSTED   bounded queue, refused at once
    ├── NoMemory            RESOURCE_EXHAUSTED   a load that can't fit
    ├── DeadlinePassed      DEADLINE_EXCEEDED    left the queue before its batch was formed
    ├── TaskCancelled       CANCELLED            its caller has gone
    ├── Unavailable         UNAVAILABLE          unloading, draining, closed
    └── RunFailed           any                  the model's own error, TensorFlow's code and text

Knows nothing of HTTP; `code` crosses the queue as an int.
"""

from enum import IntEnum


class Code(IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EngineError(Exception):
    """The engine's base error: `code` (google.rpc.Code) and `message`, which is also `str(error)`."""

    code = Code.INTERNAL

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InvalidInput(EngineError):
    code = Code.INVALID_ARGUMENT


class UnknownServable(EngineError):
    code = Code.NOT_FOUND


class UnknownSignature(EngineError):
    code = Code.INVALID_ARGUMENT


class InvalidModel(EngineError):
    code = Code.FAILED_PRECONDITION


class InvalidOptions(EngineError):
    code = Code.INVALID_ARGUMENT


class QueueFull(EngineError):
    code = Code.RESOURCE_EXHAUSTED


class NoMemory(EngineError):
    code = Code.RESOURCE_EXHAUSTED


class DeadlinePassed(EngineError):
    code = Code.DEADLINE_EXCEEDED


class TaskCancelled(EngineError):
    code = Code.CANCELLED


class Unavailable(EngineError):
    code = Code.UNAVAILABLE


class RunFailed(EngineError):
    """A run that the runtime ended with an error: its code and text, unchanged."""

    code = Code.UNKNOWN
