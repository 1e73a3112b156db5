from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from serving.keys import SCOPES, InvalidKey, create_application, issue_key
from serving.models import Application


class Command(BaseCommand):
    help = "Make an API key for a user and print it, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--application", default="command line", help="made if it doesn't exist")
        parser.add_argument("--scope", action="append", choices=tuple(SCOPES), help="may be repeated (default: predict, metadata)")
        parser.add_argument("--api", action="append", help="name of an API that it may call; may be repeated (default: all)")
        parser.add_argument("--rate", type=int, default=0, help="requests per second, 0 = unlimited")
        parser.add_argument("--concurrency", type=int, default=0, help="requests at a time, 0 = unlimited")

    def handle(self, *_args: Any, **options: Any) -> None:
        users = get_user_model()
        try:
            owner = users.objects.get_by_natural_key(options["user"])
        except users.DoesNotExist as error:
            raise CommandError(f"user: there is no {options['user']!r}") from error
        application = Application.objects.filter(owner=owner, name=options["application"]).first() or create_application(
            name=options["application"], owner=owner, actor="command line"
        )
        try:
            _, text = issue_key(
                application=application,
                actor="command line",
                scopes=options["scope"] or ("predict", "metadata"),
                apis=options["api"] or ("*",),
                requests_per_second=options["rate"],
                concurrency=options["concurrency"],
            )
        except InvalidKey as error:
            raise CommandError(str(error)) from error
        self.stdout.write(text)
