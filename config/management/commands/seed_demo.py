import asyncio
from argparse import ArgumentParser
from collections.abc import Mapping
from functools import partial
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
        if not options["traffic"]:
            seed.seed(Path(settings.VAR_DIR), say=self.stdout.write)
            return
        keys = read_env_file(Path(settings.VAR_DIR) / "keys" / "demo.env")
        try:
            self._send(keys)
            # After the traffic, whose absence is told from the log: these calls are records of the demo's key too.
            if num_answered := seed.answer_examples(partial(traffic.ask, settings.GATEWAY_URL, keys["DAYBOOK_API_KEY"])):
                self.stdout.write(f"{num_answered} examples of the catalog got their answers")
        except* httpx.HTTPError as errors:
            raise CommandError(f"the gateway at {settings.GATEWAY_URL} doesn't answer: {errors.exceptions[0]}") from errors

    def _send(self, keys: Mapping[str, str]) -> None:
        if Record.objects.filter(kind="prediction", application__in=[key.application for key in seed.KEYS]).exists():
            self.stdout.write("the log has the demo's calls already")
            return
        calls = traffic.calls(keys)
        statuses = asyncio.run(traffic.send(settings.GATEWAY_URL, calls))
        answered = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
        self.stdout.write(f"{len(calls)} calls answered: {answered}")
