"""What every way of running Daybook shares. `dev`, `prod` and `test` are short files on top of it.

Everything comes from the environment through `config.environment`; each variable is described in `docs/operator.md`.
"""

import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from config import environment

BASE_DIR = environment.ROOT
VAR_DIR = environment.path("VAR_DIR", BASE_DIR / "var")

# --- Addresses ---------------------------------------------------------------------------------------------------------------

HOST = environment.text("HOST", "127.0.0.1")
PORT = environment.port("PORT", 8000)
GATEWAY_PORT = environment.port("GATEWAY_PORT", 8501)
GRPC_PORT = environment.port("GRPC_PORT", 8500)
SITE_URL = environment.url("SITE_URL", f"http://127.0.0.1:{PORT}")
GATEWAY_URL = environment.url("GATEWAY_URL", f"http://127.0.0.1:{GATEWAY_PORT}")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", urlsplit(SITE_URL).hostname or "", *environment.words("ALLOWED_HOSTS")]
CSRF_TRUSTED_ORIGINS = [environment.origin(SITE_URL)]

# --- Data --------------------------------------------------------------------------------------------------------------------

DATABASE_URL = environment.url("DATABASE_URL", "postgresql://127.0.0.1:5432/daybook", schemes=("postgresql", "postgres"))
REDIS_URL = environment.url("REDIS_URL", "redis://127.0.0.1:6379/0", schemes=("redis", "rediss", "unix"))
REDIS_PREFIX = environment.text("REDIS_PREFIX", "daybook:")


def database(address: str) -> dict[str, Any]:
    """Django's form of a `postgresql://user:password@host:port/name` address; `?host=/directory` names a Unix socket."""
    parts = urlsplit(address)
    options = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "daybook",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(options.pop("host", parts.hostname or "")),
        "PORT": str(parts.port or options.pop("port", "")),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 5, **{key: unquote(value) for key, value in options.items()}},
    }


DATABASES = {"default": database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- The record --------------------------------------------------------------------------------------------------------------

NODE = environment.text("NODE", socket.gethostname())
JOURNAL_DIR = environment.path("JOURNAL_DIR", VAR_DIR / "journal")
LOG_DIR = environment.path("LOG_DIR", VAR_DIR / "log")
DEMO = environment.boolean("DEMO", False)
LOG_ENTRIES = environment.text("LOG_ENTRIES", "public" if DEMO else "auditors", choices=("public", "auditors"))
LOG_POST_QUANTUM = environment.boolean("LOG_POST_QUANTUM", False)
MASTER_KEY_FILE = environment.path("MASTER_KEY_FILE", VAR_DIR / "keys" / "master.key")
JOURNAL_STALL_S = environment.seconds("JOURNAL_STALL_S", 5.0, low=0.1)
JOURNAL_MAX_MB = environment.integer("JOURNAL_MAX_MB", 4096, low=64)
MERGE_DELAY_S = environment.integer("MERGE_DELAY_S", 86_400, low=60)

# --- The doors ---------------------------------------------------------------------------------------------------------------

MAX_BODY_MB = environment.integer("MAX_BODY_MB", 64, low=1)
MAX_FRAME_MB = environment.integer("MAX_FRAME_MB", 64, low=1)
BODY_TIMEOUT_S = environment.seconds("BODY_TIMEOUT_S", 30.0, low=0.1)
MODEL_ROOTS = environment.paths("MODEL_ROOTS", (VAR_DIR / "models", BASE_DIR / "demo" / "models"))

# --- Django ------------------------------------------------------------------------------------------------------------------

DEBUG = False
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.web.application"

INSTALLED_APPS = [
    "config",
    "audit",
    "catalog",
    "serving",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "rest_framework",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "config.content_security.ContentSecurityPolicy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "config.context_processors.frame",
            ],
        },
    }
]

# Nothing is loaded from elsewhere and nothing inline runs. The middleware adds the gateway's origin to `connect-src`.
CONTENT_SECURITY_POLICY = {
    "default-src": ("'self'",),
    "script-src": ("'self'",),
    "style-src": ("'self'",),
    "img-src": ("'self'", "data:", "blob:"),
    "media-src": ("'self'", "blob:"),
    "font-src": ("'self'",),
    "connect-src": ("'self'",),
    "object-src": ("'none'",),
    "base-uri": ("'none'",),
    "form-action": ("'self'",),
    "frame-ancestors": ("'none'",),
}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS: list[Path] = [BASE_DIR / "config" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# --- People ------------------------------------------------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ACCOUNT_FORMS = {"login": "config.accounts.SignInForm"}
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"
SIGNUP_OPEN = environment.boolean("SIGNUP_OPEN", False)
ACCOUNT_ADAPTER = "config.accounts.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = None
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

# --- Mail --------------------------------------------------------------------------------------------------------------------

MAIL = environment.mail("EMAIL_URL")
CAN_SEND_MAIL = MAIL is not None  # without, the pages that would send some aren't there
EMAIL_BACKEND = MAIL.backend if MAIL else "django.core.mail.backends.dummy.EmailBackend"
if MAIL:
    EMAIL_HOST, EMAIL_PORT = MAIL.host, MAIL.port
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = MAIL.user, MAIL.password
    EMAIL_USE_TLS, EMAIL_USE_SSL = MAIL.starts_tls, MAIL.is_tls
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = environment.text("EMAIL_FROM", f"Daybook <daybook@{urlsplit(SITE_URL).hostname}>")
ACCOUNT_EMAIL_SUBJECT_PREFIX = "Daybook: "

# --- The management API ------------------------------------------------------------------------------------------------------

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # The first one's `WWW-Authenticate` decides between 401 and 403: a caller without a key is told that a key would help.
        "serving.authentication.KeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "rest_framework.parsers.JSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Daybook management API",
    "DESCRIPTION": "Whatever the site can do. Send a key with the scope `api` as `Authorization: Bearer …`, or be signed in.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {"Access": "catalog.models.Entry.Access", "EntryKind": "catalog.models.Entry.Kind"},
}

# --- Log lines ---------------------------------------------------------------------------------------------------------------

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "config.logs.LineFormatter"}},
    "filters": {"error_id": {"()": "config.logs.ErrorId"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": environment.text("LOG_LEVEL", "INFO")},
    "loggers": {
        "django.request": {"level": "ERROR", "filters": ["error_id"]},
        "httpx": {"level": "WARNING"},
        "celery": {"level": "WARNING"},
    },
}
