import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from config.up import main


class Command(BaseCommand):
    help = "Run everything on this machine: database, Redis, site, gateway, scribe, sealer, worker and jobs. Ctrl-C stops it."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(main(settings))
