"""When to do it: the catalog's periodic task."""

from celery import shared_task
from django.utils import timezone

from . import services

FIGURES_EVERY_S = 60.0


@shared_task(name="catalog.refresh_figures", ignore_result=True)  # type: ignore[untyped-decorator]
def refresh_figures() -> None:
    services.refresh_figures(now=timezone.now())
