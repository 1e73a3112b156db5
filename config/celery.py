"""The Celery app: `celery -A config worker …`.

Celery manages and carries no predictions. Two kinds of process run it, told apart by the queue they consume:

    worker  -P threads -Q control.<node>   hosts the serving engine (`serving.worker.bootstep`) and hears every control task
    jobs    -P threads -Q jobs -B          everything else, and the periodic tasks

Control tasks (`serving.control.*`) are broadcast: each worker has a queue of its own on one fanout exchange, under the common name
`control.<node>`. What a worker that is down misses doesn't matter: it looks at the desired state when it comes up.
"""

import os
import warnings
from urllib.parse import quote, urlencode, urlsplit

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging
from kombu import Exchange, Queue  # type: ignore[attr-defined]  # kombu has types for half of itself
from kombu.common import Broadcast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.dev")

from django.conf import settings

from serving.worker.bootstep import EngineStep


def broker_url(redis_url: str) -> str:
    """REDIS_URL as kombu writes it: it has a scheme of its own for unix sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    options = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    user = f":{quote(parts.password)}@" if parts.password else ""
    return f"redis+socket://{user}{parts.path}?{urlencode({'virtual_host': options.get('db', '0')})}"


CONTROL = Exchange(f"{settings.REDIS_PREFIX}control", type="fanout", durable=False)  # type: ignore[no-untyped-call]
CONTROL_QUEUE = f"control.{settings.NODE}"

app = Celery("daybook")
app.conf.update(
    broker_url=broker_url(settings.REDIS_URL),
    broker_transport_options={"global_keyprefix": f"{settings.REDIS_PREFIX}celery:", "socket_connect_timeout": 2, "socket_keepalive": True},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,  # tasks are safe to repeat and claim their work in PostgreSQL
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_default_queue="jobs",
    task_queues=(Queue("jobs"), Broadcast(CONTROL_QUEUE, exchange=CONTROL)),  # type: ignore[no-untyped-call]
    # Declared by who sends, too: to kombu an exchange that it doesn't know is a direct one, and the message would reach nobody.
    task_routes={"serving.control.*": {"queue": CONTROL_QUEUE, "declare": [CONTROL]}},
    task_serializer="json",
    accept_content=["json"],
    timezone="UTC",
    beat_schedule={"catalog-figures": {"task": "catalog.refresh_figures", "schedule": 60.0}},
    beat_max_loop_interval=5,
)
app.set_default()  # for every thread: a request of the site sends tasks too
app.autodiscover_tasks()
app.steps["worker"].add(EngineStep)

warnings.filterwarnings("ignore", category=SecurityWarning)  # root in a container is meant, and only JSON is accepted


@setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging(**_: object) -> None:
    """Django has set up logging by the settings; Celery shall leave it."""
