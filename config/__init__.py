"""Settings, URL map, entry points and the supervisor.

The Celery app is `config.celery.app`; it isn't imported here, because the gateway and the supervisor live in this package too and
must start without Django. `celery -A config` finds it by its name, every Django process through `config.apps`.
"""
