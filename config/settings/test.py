"""Tests: every xdist worker has its own directory, Redis prefix and block of ports; `tests/conftest.py` fills in the servers."""

import os
import tempfile
from pathlib import Path

from .base import *  # noqa: F403
from .base import REST_FRAMEWORK as REST_FRAMEWORK
from .base import STORAGES as STORAGES

# "gw3" → 3; one process without xdist → 0.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

VAR_DIR = Path(tempfile.gettempdir()) / f"daybook-test-{os.getpid()}"
JOURNAL_DIR = VAR_DIR / "journal"
LOG_DIR = VAR_DIR / "log"
MASTER_KEY_FILE = VAR_DIR / "keys" / "master.key"
STATIC_ROOT = VAR_DIR / "static"
MODEL_ROOTS = (VAR_DIR / "models", Path(tempfile.gettempdir()))
REDIS_PREFIX = f"test-{os.getpid()}:"
PORT, GATEWAY_PORT, GRPC_PORT = (20_000 + 10 * WORKER + offset for offset in range(3))
SITE_URL = f"http://127.0.0.1:{PORT}"
GATEWAY_URL = f"http://127.0.0.1:{GATEWAY_PORT}"
NODE = f"test-{WORKER}"
LOG_ORIGIN = "daybook.test/log"
LOG_ENTRIES = "auditors"
DEMO = False

SECRET_KEY = "only-for-tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {**STORAGES, "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
