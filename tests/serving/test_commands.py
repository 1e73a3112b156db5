"""The commands that make keys and register models: every option."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from catalog.models import Entry
from serving.keys import find_key_by_text
from serving.models import APIKey, Application, Deployment

from .factories import make_application, make_user

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_issue_key_prints_a_key_that_calls_everything_without_limits() -> None:
    make_user("ada")
    key = find_key_by_text(run("issue_key", "ada"))
    assert key is not None
    assert (key.application.owner.username, key.application.name) == ("ada", "command line")
    assert (key.scopes, key.apis, key.requests_per_second, key.concurrency) == (["predict", "metadata"], ["*"], 0, 0)
    assert key.expires_at is None


def test_issue_key_takes_each_right_from_its_options() -> None:
    application = make_application(make_user("ada"), "notebook")
    text = run(
        *("issue_key", "ada", "--application", "notebook", "--scope", "api", "--scope", "operate"),
        *("--api", "digits", "--api", "risk", "--rate", "100", "--concurrency", "8"),
    )
    key = find_key_by_text(text)
    assert key is not None
    assert (key.application, key.scopes, key.apis) == (application, ["api", "operate"], ["digits", "risk"])
    assert (key.requests_per_second, key.concurrency) == (100, 8)
    assert Application.objects.count() == 1


@pytest.mark.parametrize("arguments", [("nobody",), ("ada", "--scope", "fly"), ("ada", "--rate", "much"), ()])
def test_issue_key_refuses_what_cannot_be(arguments: tuple[str, ...]) -> None:
    make_user("ada")
    with pytest.raises(CommandError):
        run("issue_key", *arguments)
    assert not APIKey.objects.exists()


def test_register_takes_policy_labels_access_and_summary(tmp_path: Path) -> None:
    said = run(
        *("register", "digits", str(tmp_path), "--policy", "specific:1,3", "--label", "stable=3", "--label", "old=1"),
        *("--access", "open", "--summary", "Reads a digit."),
    )
    deployment, entry = Deployment.objects.get(), Entry.objects.get()
    assert (deployment.base_path, deployment.policy, deployment.labels) == (str(tmp_path), "specific:1,3", {"stable": 3, "old": 1})
    assert (entry.slug, entry.access, entry.summary) == ("digits", "open", "Reads a digit.")
    assert "digits" in said
    assert "specific:1,3" in said


def test_register_serves_the_newest_version_with_a_key_when_nothing_is_said(tmp_path: Path) -> None:
    run("register", "digits", str(tmp_path))
    assert (Deployment.objects.get().policy, Deployment.objects.get().labels, Entry.objects.get().access) == ("latest:1", {}, "key")


@pytest.mark.parametrize(
    "options",
    [("--policy", "newest"), ("--label", "stable"), ("--label", "stable=two"), ("--access", "everybody"), ("--policy", "latest:0")],
)
def test_register_refuses_what_cannot_be(options: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        run("register", "digits", str(tmp_path), *options)
    assert not Deployment.objects.exists()
