import asyncio
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from audit.models import Record
from config.files import read_env_file
from demo import seed, traffic


class Command(BaseCommand):
    help = "Put the demo's people, models and keys into the database; with --traffic send its inputs through the gateway, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--traffic", action="store_true", help="send real inputs, unless the log has some already")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["traffic"]:
            self._send()
        else:
            seed.seed(Path(settings.VAR_DIR), say=self.stdout.write)

    def _send(self) -> None:
        if Record.objects.filter(kind="prediction", application__in=[key.application for key in seed.KEYS]).exists():
            self.stdout.write("the log has the demo's calls already")
            return
        calls = traffic.calls(read_env_file(Path(settings.VAR_DIR) / "keys" / "demo.env"))
        try:
            statuses = asyncio.run(traffic.send(settings.GATEWAY_URL, calls))
        except* httpx.HTTPError as errors:
            raise CommandError(f"the gateway at {settings.GATEWAY_URL} doesn't answer: {errors.exceptions[0]}") from errors
        answered = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
        self.stdout.write(f"{len(calls)} calls answered: {answered}")
