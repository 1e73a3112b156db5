from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "config"
    verbose_name = "Site"

    def ready(self) -> None:
        from . import (
            api_schema,  # noqa: F401  # drf-spectacular finds its extensions by their being imported
            celery,  # noqa: F401  # tasks sent from any Django process go to our broker
        )
