"""Behind a TLS-terminating proxy. Nothing is made up here: what must be the same on every node has to be given."""

from config import environment

from .base import *  # noqa: F403
from .base import SITE_URL

SECRET_KEY = environment.text("SECRET_KEY")
LOG_ORIGIN = environment.text("LOG_ORIGIN")
environment.url("DATABASE_URL", schemes=("postgresql", "postgres"))
environment.url("REDIS_URL", schemes=("redis", "rediss", "unix"))

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = SITE_URL.startswith("https://")
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # asked from inside, past the proxy
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT
SECURE_HSTS_SECONDS = environment.integer("HSTS_SECONDS", 3600)
