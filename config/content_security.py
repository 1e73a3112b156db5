"""The Content-Security-Policy header. Django has none before 6.0; ours needs neither nonces nor report-only, so no package either."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from .environment import origin


class ContentSecurityPolicy:
    """Sends `settings.CONTENT_SECURITY_POLICY` and the gateway's origin with every answer that doesn't bring its own policy."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        directives = {name: tuple(sources) for name, sources in settings.CONTENT_SECURITY_POLICY.items()}
        directives["connect-src"] += (origin(settings.GATEWAY_URL),)  # try-it calls the gateway from the page
        self.value = "; ".join(f"{name} {' '.join(sources)}" for name, sources in directives.items())

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", self.value)
        return response
