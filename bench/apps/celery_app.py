"""Baseline: the usual way in Django: a DRF view sends a Celery task per request and waits for its result.

The task worker: `celery -A bench.apps.celery_app worker -c 2` (prefork, two processes, TensorFlow's Python package).
The site: `granian --interface wsgi bench.apps.celery_app:application` with 64 threads.
"""

import os
from pathlib import Path
from typing import Any

import django
from celery import Celery
from celery.signals import worker_process_init
from django.conf import settings

celery = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
celery.conf.update(task_ignore_result=False, worker_prefetch_multiplier=4, result_expires=60)
functions: dict[str, Any] = {}
models: list[Any] = []


@worker_process_init.connect
def load(**_signal: Any) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in ("half_plus_two", "mlp", "convnet"):
        models.append(tf.saved_model.load(str(Path(os.environ["BENCH_MODELS"]) / name / "1")))
        functions[name] = models[-1].signatures["serving_default"]


@celery.task(name="predict")
def predict(name: str, instances: list[Any]) -> list[Any]:
    import tensorflow as tf

    outputs = functions[name](x=tf.constant(instances, tf.float32))
    return next(iter(outputs.values())).numpy().tolist()


if not settings.configured:
    settings.configure(
        DEBUG=False,
        SECRET_KEY="bench",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["rest_framework"],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "DEFAULT_PERMISSION_CLASSES": [],
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        },
    )
    django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import re_path  # noqa: E402
from rest_framework.decorators import api_view  # noqa: E402
from rest_framework.response import Response  # noqa: E402


@api_view(["POST"])
def predict_view(request: Any, name: str) -> Response:
    return Response({"predictions": predict.delay(name, request.data["instances"]).get(timeout=30)})


@api_view(["GET"])
def healthz(request: Any) -> Response:
    return Response({"status": "ok"})


urlpatterns = [re_path(r"^v1/models/(?P<name>\w+):predict$", predict_view), re_path(r"^healthz$", healthz)]
application = get_wsgi_application()
