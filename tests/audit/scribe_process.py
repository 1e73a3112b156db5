"""A scribe as a process of its own, to be killed: python -m tests.audit.scribe_process DATABASE_URL JOURNAL_DIR STORE_URL."""

import sys
from pathlib import Path
from typing import Any

import psycopg

from audit.scribe import Scribe, ScribeOptions
from audit.store import PayloadStore


def main(database_url: str, directory: str, store_url: str) -> None:
    def connect() -> "psycopg.Connection[Any]":
        return psycopg.connect(database_url, autocommit=True)

    scribe = Scribe(connect, PayloadStore(store_url), ScribeOptions(directory=Path(directory), node="node-1", poll_s=0.01))
    print("ready", flush=True)
    scribe.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
