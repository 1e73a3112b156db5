"""The URL map: each app's pages at the root, each app's part of the management API below /api/."""

from django.conf import settings
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView

from . import accounts, api_docs, health, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.home, name="home"),
    path("search/", views.search, name="search"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("accounts/", include(accounts.urls(with_mail=settings.CAN_SEND_MAIL))),
    path("api/schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/docs/", api_docs.api_docs, name="api-docs"),
    path("api/", include("audit.api_urls")),
    path("api/", include("catalog.api_urls")),
    path("api/", include("serving.api_urls")),
    path("", include("audit.urls")),
    path("", include("catalog.urls")),
    path("", include("serving.urls")),
]

handler500 = "config.views.server_error"
