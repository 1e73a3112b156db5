"""The app `audit`: the log of everything that happened."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "audit"
    label = "audit"
    verbose_name = "Daybook"
    default_auto_field = "django.db.models.BigAutoField"
