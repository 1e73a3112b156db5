"""How people sign in: who may make themselves an account, which of allauth's pages there are, and in whose words."""

from typing import Any

from allauth.account import urls as offered
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.forms import LoginForm
from django.conf import settings
from django.http import HttpRequest
from django.urls import URLPattern

# They send a letter: where none can be sent they would end in a 500, and "Forgot your password?" would lead there.
SEND_MAIL = frozenset(
    {
        "account_email",
        "account_email_verification_sent",
        "account_confirm_email",
        "account_reset_password",
        "account_reset_password_done",
        "account_reset_password_from_key",
        "account_reset_password_from_key_done",
    }
)


def urls(*, with_mail: bool) -> list[URLPattern]:
    return [pattern for pattern in offered.urlpatterns if with_mail or pattern.name not in SEND_MAIL]


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.SIGNUP_OPEN)


class SignInForm(LoginForm):  # type: ignore[misc]  # allauth has no types
    """allauth's form in this site's words: "Login" is no name for a field, and what is remembered is worth saying."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["login"].label = "Name or e-mail address"
        self.fields["remember"].label = "Stay signed in on this device"
        for field in self.fields.values():
            field.widget.attrs.pop("placeholder", None)
