#!/usr/bin/env python
"""Daybook's commands: `manage.py up` runs everything, `manage.py help` lists the rest."""

import os
import sys

if __name__ == "__main__":
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Daybook runs on CPython 3.11 to 3.13; this is {sys.version.split()[0]} at {sys.executable}.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.dev")
    from django.core.management import execute_from_command_line

    from config.environment import BadEnvironment

    try:
        execute_from_command_line(sys.argv)
    except BadEnvironment as error:
        sys.exit(f"{error}.")
