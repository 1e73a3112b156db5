"""One machine, plain HTTP on 127.0.0.1: what `make run` uses. Secrets are made at the first start and kept below VAR_DIR/keys."""

import os
import secrets
import sys

from config import environment
from config.files import kept_secret

os.environ.setdefault("EMAIL_URL", "console:")  # letters go to the terminal
environment.adopt_running(environment.path("VAR_DIR", environment.ROOT / "var"))

from .base import *  # noqa: E402, F403
from .base import NODE, VAR_DIR  # noqa: E402

DEBUG = environment.boolean("DEBUG", False)
try:
    SECRET_KEY = environment.text("SECRET_KEY", "") or kept_secret(VAR_DIR / "keys" / "secret.key")
    # An origin names one log for ever. A new VAR_DIR starts a new log, so it must not inherit the name of the one before.
    LOG_ORIGIN = environment.text("LOG_ORIGIN", "") or kept_secret(
        VAR_DIR / "keys" / "log.origin", lambda: f"daybook.local/{NODE}/{secrets.token_hex(4)}"
    )
except OSError as error:
    sys.exit(f"VAR_DIR={VAR_DIR} can't be written: {error.strerror}")
