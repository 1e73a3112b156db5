"""Log lines: time, level, logger, a constant message, then the fields given as `extra`, as `key=value`."""

import logging
import time

# What every LogRecord has; anything else came in through `extra`.
_OWN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_shown(value)}" for key, value in record.__dict__.items() if key not in _OWN)
        stamp = time.strftime("%H:%M:%S", time.gmtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname.lower():7} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class ErrorId(logging.Filter):
    """Gives the line of a failed page the id that its reader was told."""

    def filter(self, record: logging.LogRecord) -> bool:
        if error_id := getattr(getattr(record, "request", None), "error_id", None):
            record.error_id = error_id
        return True


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text or not text else text
