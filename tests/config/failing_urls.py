"""The site with one page that always breaks."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from config.urls import handler500 as handler500
from config.urls import urlpatterns as ours


def fail(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("as told")


urlpatterns = [*ours, path("fail/", fail)]
