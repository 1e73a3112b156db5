from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from serving.services import forget_workers


class Command(BaseCommand):
    help = "Bring the database, the static files and (with DEMO=1) the demo up to date, before this node's worker starts."

    def handle(self, *args: Any, **options: Any) -> None:
        executor = MigrationExecutor(connection)
        if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.stdout.write(f"applying {len(plan)} migrations")
        call_command("migrate", interactive=False, verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        forget_workers(node=settings.NODE)  # `up` holds the lock, so none runs
        if settings.DEMO:
            call_command("seed_demo")
