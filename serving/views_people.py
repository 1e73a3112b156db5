"""Pages of administrators: people and their roles."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from . import access, people
from .contexts_people import people_page, role_change
from .forms import PersonForm, RolesForm


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def people_list(request: HttpRequest) -> HttpResponse:
    """All people, and the form of a new one. A first password is in the answer to the post that made it and nowhere else."""
    access.require_administrator(request.user)
    form = PersonForm(request.POST or None)
    made: dict[str, User | str] = {}
    if request.method == "POST" and form.is_valid():
        try:
            person, password = people.add_person(actor=request.user.get_username(), **form.cleaned_data)
        except people.InvalidPerson as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            made, form = {"made": person, "password": password}, PersonForm()
    context = {"page": people_page(), "form": form, **made}
    return render(request, "serving/people.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
@login_required
def person_detail(request: HttpRequest, name: str) -> HttpResponse:
    """One person's roles. The first post says what will change, the confirmed one changes it."""
    person = access.get_person(request.user, name)
    form = RolesForm(request.POST or None, initial={"roles": people.roles_of(person)})
    context = {"person": person, "form": form, "subject": people.subject_of(person)}
    if request.method == "POST" and form.is_valid():
        wanted = form.cleaned_data["roles"]
        if not request.POST.get("confirm"):
            return render(request, "serving/person_confirm.html", {**context, "change": role_change(person, wanted)})
        try:
            people.set_roles(person=person, roles=wanted, actor=request.user.get_username())
        except people.InvalidPerson as error:
            form.add_error("roles", error.message)
        else:
            messages.success(request, f"{name}: {', '.join(wanted) or 'no role'}. It holds from their next request on.")
            return redirect("serving:people")
    return render(request, "serving/person.html", context, status=422 if form.errors else 200)
