from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ServingConfig(AppConfig):
    name = "serving"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import roles

        # Permissions come into being in post_migrate too; roles follow them there, so that no command has to be remembered.
        post_migrate.connect(roles.sync_roles, sender=self)
