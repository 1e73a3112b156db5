"""Connections of our own, beside Django's: for processes that need a session's lock, COPY, or binary rows."""

from typing import Any

import psycopg
from django.db import connections


def connect() -> "psycopg.Connection[Any]":
    """A new connection to Django's default database, in autocommit mode. Raises psycopg.OperationalError."""
    database: dict[str, Any] = connections["default"].settings_dict
    options = {name: value for name, value in database.get("OPTIONS", {}).items() if name not in _DJANGO_OPTIONS}
    return psycopg.connect(
        dbname=database["NAME"],
        user=database.get("USER") or None,
        password=database.get("PASSWORD") or None,
        host=database.get("HOST") or None,
        port=database.get("PORT") or None,
        autocommit=True,
        **{"connect_timeout": 5, "application_name": "daybook", **options},
    )


# Understood by Django's backend, not by libpq.
_DJANGO_OPTIONS = {"pool", "isolation_level", "server_side_binding", "assume_role", "prepare_threshold", "sslcertmode"}
