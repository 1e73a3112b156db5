"""Errors of the journal and what hangs on it.

LogError
├── LogUnavailable      the record cannot be made durable: answer 503 and send no prediction
│   └── LogStalled      nobody knows yet whether it became durable: close the connection unanswered
├── DamagedJournal      bytes that were acknowledged cannot be read
└── PayloadUnavailable  a payload cannot be shown; `reason` says why
    ├── PayloadErased   its key was destroyed
    └── PayloadElsewhere  its segment is still on another node
"""


class LogError(Exception):
    """Base of all errors of the daybook's journal."""


class LogUnavailable(LogError):
    pass


class LogStalled(LogUnavailable):
    pass


class DamagedJournal(LogError):
    pass


class PayloadUnavailable(LogError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PayloadErased(PayloadUnavailable):
    pass


class PayloadElsewhere(PayloadUnavailable):
    pass
