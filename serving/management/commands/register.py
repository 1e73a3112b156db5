from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from serving.fields import InvalidDeployment
from serving.policy import InvalidPolicy, parse_label
from serving.services import create_deployment


class Command(BaseCommand):
    help = "Serve a SavedModel directory (one sub-directory per version) under a name."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("directory")
        parser.add_argument("--policy", default="latest:1", help="latest:N, all or specific:1,2 (default: latest:1)")
        parser.add_argument("--label", action="append", default=[], metavar="NAME=VERSION", help="may be repeated")
        parser.add_argument("--access", default="key", choices=("open", "key", "subscription"))
        parser.add_argument("--summary", default="", help="one sentence for the catalog")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            deployment = create_deployment(
                name=options["name"],
                base_path=options["directory"],
                policy=options["policy"],
                labels=dict(parse_label(label) for label in options["label"]),
                access=options["access"],
                summary=options["summary"],
                actor="command line",
                anywhere=True,
            )
        except (InvalidDeployment, InvalidPolicy) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{deployment.name}: workers load {deployment.base_path} ({deployment.policy}) now; see /serving/{deployment.name}/"
        )
