"""Forms of the serving and keys pages. They check form, the services check sense; a service's error lands on its field."""

import json
from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils import timezone

from .keys import SCOPES
from .models import NAME, Application
from .policy import InvalidPolicy, format_policy, parse_label, parse_policy
from .roles import MEANINGS

ACCESS = [("key", "Anyone with a key"), ("open", "Anyone, limited by address"), ("subscription", "Applications that the owner approved")]


def _split_labels(text: str) -> dict[str, int]:
    try:
        return dict(parse_label(part) for part in text.replace(",", "\n").splitlines() if part.strip())
    except InvalidPolicy as error:
        raise forms.ValidationError(str(error)) from error


class _PolicyMixin:
    cleaned_data: dict[str, Any]

    def clean_policy(self) -> str:
        try:
            return format_policy(parse_policy(self.cleaned_data["policy"]))
        except InvalidPolicy as error:
            raise forms.ValidationError(str(error)) from error

    def clean_labels(self) -> dict[str, int]:
        return _split_labels(self.cleaned_data["labels"])


class RegisterForm(_PolicyMixin, forms.Form):
    name = forms.CharField(max_length=100, validators=[NAME], help_text="The name callers use in /v1/models/NAME.")
    base_path = forms.CharField(
        label="Model directory",
        max_length=1000,
        help_text="On the serving node: a directory with one sub-directory per version, such as 1.",
    )
    summary = forms.CharField(max_length=200, help_text="One sentence for the catalog: what goes in, what comes out.")
    policy = forms.CharField(initial="latest:1", label="Versions to serve", help_text="latest:N, all or specific:1,2.")
    labels = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 2}), help_text="One NAME=VERSION a line, such as stable=2."
    )
    access = forms.ChoiceField(choices=ACCESS)


class ChangeForm(_PolicyMixin, forms.Form):
    policy = forms.CharField(label="Versions to serve", help_text="latest:N, all or specific:1,2.")
    labels = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 2}), help_text="One NAME=VERSION a line, such as stable=2."
    )
    timeout_ms = forms.IntegerField(
        min_value=1, max_value=3_600_000, label="Deadline (ms)", help_text="A call that takes longer is answered 504."
    )
    batching = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono"}),
        help_text='JSON, such as {"max_batch_size": 32, "batch_timeout": 0.002}. Empty = found out from measurements.',
    )

    def clean_batching(self) -> dict[str, Any]:
        text = self.cleaned_data["batching"].strip()
        try:
            value = json.loads(text) if text else {}
        except ValueError as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise forms.ValidationError('Expected a JSON object, such as {"max_batch_size": 32}.')
        return value


class AccessForm(forms.Form):
    access = forms.ChoiceField(choices=ACCESS, label="Who may call")


class AskForm(forms.Form):
    application: Any = forms.ModelChoiceField(Application.objects.none(), empty_label=None, help_text="All its keys may call then.")
    reason = forms.CharField(max_length=300, required=False, label="What for", help_text="The owner reads it.")

    def __init__(self, *args: Any, applications: QuerySet[Application], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields["application"]
        field.queryset = applications


class ApplicationForm(forms.Form):
    name = forms.CharField(max_length=100, label="Name", help_text="What calls: a service, a notebook, a team's job.")


class KeyForm(forms.Form):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, f"{scope}: {meaning}") for scope, meaning in SCOPES.items()],
        widget=forms.CheckboxSelectMultiple,
        initial=["predict", "metadata"],
    )
    apis = forms.CharField(
        required=False, label="APIs", help_text="Names that it may call, separated by spaces. Empty = all that you may use."
    )
    requests_per_second = forms.IntegerField(min_value=0, initial=0, help_text="0 = unlimited.")
    concurrency = forms.IntegerField(min_value=0, initial=0, label="Requests at a time", help_text="0 = unlimited.")
    expires = forms.TypedChoiceField(
        choices=[("", "never"), ("7", "in a week"), ("30", "in a month"), ("365", "in a year")],
        coerce=int,
        empty_value=None,
        required=False,
    )

    def issue_arguments(self) -> dict[str, Any]:
        """The keyword arguments for `keys.issue_key`."""
        values = dict(self.cleaned_data)
        days = values.pop("expires")
        values["apis"] = values["apis"].split() or ["*"]
        values["expires_at"] = timezone.now() + timedelta(days=days) if days else None
        return values


class RolesForm(forms.Form):
    roles = forms.MultipleChoiceField(
        choices=[(role, f"{role}: {meaning}") for role, meaning in MEANINGS.items()],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )


class PersonForm(RolesForm):
    name = forms.CharField(max_length=150, label="User name")
    email = forms.EmailField(required=False, label="E-mail")

    field_order = ("name", "email", "roles")
