from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Bring the database, the static files and (with DEMO=1) the demo up to date. Safe to repeat; `up` does it at each start."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=min(options["verbosity"], 1))
        call_command("collectstatic", interactive=False, verbosity=0)
        if settings.DEMO:
            call_command("seed_demo")
