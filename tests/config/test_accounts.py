"""Sign-in, and what depends on whether mail can be sent."""

import pytest
from django.test import Client

from config import accounts
from config.environment import BadEnvironment, mail


@pytest.mark.django_db
def test_without_mail_nothing_leads_to_a_forgotten_password(client: Client) -> None:
    html = client.get("/accounts/login/").content.decode()
    assert "Forgot" not in html
    assert "/accounts/password/reset/" not in html
    for path in ("/accounts/password/reset/", "/accounts/email/", "/accounts/confirm-email/"):
        assert client.get(path).status_code == 404


def test_with_mail_every_page_is_there() -> None:
    names = {pattern.name for pattern in accounts.urls(with_mail=True)}
    assert names >= accounts.SEND_MAIL
    assert names - {pattern.name for pattern in accounts.urls(with_mail=False)} == accounts.SEND_MAIL


@pytest.mark.django_db
def test_sign_in_speaks_the_sites_words(client: Client) -> None:
    html = client.get("/accounts/login/").content.decode()
    assert "Name or e-mail address" in html
    assert "Stay signed in on this device" in html
    for theirs in ("Remember Me", ">Login<", 'placeholder="Password"'):
        assert theirs not in html


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("smtp+tls://ada:p%40ss@mail.example.org", ("mail.example.org", 587, "ada", "p@ss", True, False)),
        ("smtps://mail.example.org:4650", ("mail.example.org", 4650, "", "", False, True)),
        ("smtp://127.0.0.1:1025", ("127.0.0.1", 1025, "", "", False, False)),
    ],
)
def test_mail_addresses_are_read(monkeypatch: pytest.MonkeyPatch, address: str, found: tuple[object, ...]) -> None:
    monkeypatch.setenv("EMAIL_URL", address)
    read = mail("EMAIL_URL")
    assert read is not None
    assert (read.host, read.port, read.user, read.password, read.starts_tls, read.is_tls) == found


@pytest.mark.parametrize("address", ["mail.example.org", "http://mail.example.org", "smtp://", "smtp://host:mail"])
def test_a_wrong_mail_address_stops_the_start_without_showing_the_password(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("EMAIL_URL", address)
    with pytest.raises(BadEnvironment, match="EMAIL_URL"):
        mail("EMAIL_URL")


def test_mail_is_off_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMAIL_URL", raising=False)
    assert mail("EMAIL_URL") is None
    read = mail("EMAIL_URL", "console:")
    assert read is not None
    assert "console" in read.backend
