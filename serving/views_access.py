"""The page of who may call one API: its access, and the applications that ask."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from catalog.access import get_entry
from catalog.models import Entry, Subscription

from . import access, subscriptions
from .contexts_access import access_page
from .forms import AccessForm, AskForm
from .models import Application

DECISIONS = {"approve": Subscription.State.APPROVED, "refuse": Subscription.State.REFUSED, "end": Subscription.State.ENDED}


@require_http_methods(["GET", "POST"])
@login_required
def entry_access(request: HttpRequest, slug: str) -> HttpResponse:
    """Its owner changes the access here and sees who asks; others ask."""
    if request.method == "POST":
        entry = access.get_managed_entry(request.user, slug)
        form = AccessForm(request.POST)
        if form.is_valid():
            subscriptions.set_access(entry=entry, access=form.cleaned_data["access"], actor=request.user.get_username())
            messages.success(request, "Changed. Gateways follow within a second.")
            return redirect("serving:access", slug=slug)
        return _page(request, entry, form=form)
    return _page(request, get_entry(request.user, slug))


@require_POST
@login_required
def ask(request: HttpRequest, slug: str) -> HttpResponse:
    entry = get_entry(request.user, slug)
    form = AskForm(request.POST, applications=Application.objects.filter(owner_id=request.user.pk))
    if not form.is_valid():
        return _page(request, entry, ask=form)
    try:
        subscriptions.ask_subscription(entry=entry, actor=request.user.get_username(), **form.cleaned_data)
    except subscriptions.InvalidSubscription as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "Asked. The answer will stand on this page.")
    return redirect("serving:access", slug=slug)


@require_POST
@login_required
def decide(request: HttpRequest, pk: int, decision: str) -> HttpResponse:
    subscription = access.get_subscription(request.user, pk)
    state = DECISIONS[decision]
    access.require_decider(request.user, subscription, state)
    try:
        subscriptions.decide_subscription(subscription=subscription, state=state, actor=request.user.get_username())
    except subscriptions.InvalidSubscription as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{subscription.application} is {subscription.get_state_display()}.")
    return redirect("serving:access", slug=subscription.entry.slug)


def _page(request: HttpRequest, entry: Entry, *, form: AccessForm | None = None, ask: AskForm | None = None) -> HttpResponse:
    wrong = form is not None or ask is not None
    context = {
        "page": access_page(request.user, entry),
        "form": form or AccessForm(initial={"access": entry.access}),
        "ask": ask or AskForm(applications=Application.objects.filter(owner_id=request.user.pk)),
    }
    return render(request, "serving/access.html", context, status=422 if wrong else 200)
