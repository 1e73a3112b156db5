"""The URL map: each app's pages at the root, each app's part of the management API below /api/."""

from importlib.util import find_spec

from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView

from . import health, views


def _include(prefix: str, module: str) -> list[URLResolver]:
    return [path(prefix, include(module))] if find_spec(module) else []


urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.home, name="home"),
    path("search/", views.search, name="search"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("accounts/", include("allauth.account.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="api-schema"),
    *_include("api/", "audit.api_urls"),
    *_include("api/", "catalog.api_urls"),
    *_include("api/", "serving.api_urls"),
    *_include("", "audit.urls"),
    *_include("", "catalog.urls"),
    *_include("", "serving.urls"),
]
