"""Pages that belong to no app: home, the search box, errors."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "home.html", {})


def search(request: HttpRequest) -> HttpResponse:
    return redirect("audit:records")
