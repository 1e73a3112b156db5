"""What owners may write about their entries."""

from typing import TYPE_CHECKING, Any

from django import forms

from .models import Entry, EntryTag, Tag

EVALUATION_KEYS = ("dataset", "metric", "value", "measured_by")


if TYPE_CHECKING:
    _EntryForm = forms.ModelForm[Entry]
else:
    _EntryForm = forms.ModelForm  # not subscriptable at run time


class CardForm(_EntryForm):
    """The label and card of an entry, and its tags."""

    tags = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
        help_text="One a line, as <code>namespace:slug</code>, from the <a href='/api/tags/'>taxonomy</a>. "
        "Proposed tags that you take out are never proposed again.",
    )
    evaluation = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="One a line: data set | metric | value | measured by whom.",
    )

    class Meta:
        model = Entry
        fields = (
            "name", "summary", "provider", "lifecycle", "visibility", "intended_use", "out_of_scope", "limitations", "training_data",
            "licence", "interface_licence", "data_licence", "provenance", "energy", "card",
        )  # fmt: skip
        widgets = {
            name: forms.Textarea(attrs={"rows": rows})
            for name, rows in {
                "intended_use": 2,
                "out_of_scope": 2,
                "limitations": 2,
                "training_data": 2,
                "provenance": 2,
                "card": 14,
            }.items()
        }
        labels = {"licence": "Licence of the model", "interface_licence": "Licence of the interface", "data_licence": "Licence of the data"}
        help_texts = {
            "summary": "One sentence: what goes in, what comes out.",
            "licence": "An SPDX identifier, such as Apache-2.0.",
            "card": "Markdown.",
        }

    field_order = (
        "name", "summary", "provider", "lifecycle", "visibility", "tags", "intended_use", "out_of_scope", "limitations", "training_data",
        "evaluation", "licence", "interface_licence", "data_licence", "provenance", "energy", "card",
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        instance: Entry = kwargs["instance"]
        rows = EntryTag.objects.filter(entry=instance).exclude(source=EntryTag.Source.REJECTED).select_related("tag")
        kwargs["initial"] = {
            "tags": "\n".join(row.tag.key for row in rows),
            "evaluation": "\n".join(" | ".join(str(row.get(key, "")) for key in EVALUATION_KEYS) for row in instance.evaluation),
            **kwargs.pop("initial", {}),
        }
        super().__init__(*args, **kwargs)

    def clean_tags(self) -> list[str]:
        keys = list(dict.fromkeys(self.cleaned_data["tags"].split()))
        known = {tag.key for tag in Tag.objects.filter(slug__in=[key.partition(":")[2] for key in keys])}
        if unknown := [key for key in keys if key not in known]:
            raise forms.ValidationError(f"The taxonomy has no {unknown[0]!r}.")
        return keys

    def clean_evaluation(self) -> list[dict[str, str]]:
        rows = []
        for line in filter(None, (line.strip() for line in self.cleaned_data["evaluation"].splitlines())):
            parts = [part.strip() for part in line.split("|")]
            if not 3 <= len(parts) <= len(EVALUATION_KEYS):
                raise forms.ValidationError(f"Expected “data set | metric | value | measured by”, got “{line}”.")
            rows.append(dict(zip(EVALUATION_KEYS, [*parts, ""], strict=False)))
        return rows
