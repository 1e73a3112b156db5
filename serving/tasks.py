"""When to do it: control tasks that every serving worker hears. They hold no logic and are safe to repeat.

`nudge`, `status`, `retry` and `drain` act on the engine in the process that runs them; in a process without one they do nothing. `load` and
`unload` change what is desired, through the service, and nudge.
"""

from typing import Any

from celery import shared_task

from .worker.bootstep import find_engine


@shared_task(name="serving.control.nudge", ignore_result=True)  # type: ignore[untyped-decorator]
def nudge() -> None:
    """Look at the desired state now."""
    if (engine := find_engine()) is not None:
        engine.nudge()


@shared_task(name="serving.control.status", ignore_result=True)  # type: ignore[untyped-decorator]
def status() -> dict[str, Any] | None:
    """Report now, to PostgreSQL and Redis, where `live.read_workers` finds it: a broadcast has no answer. Gives what was reported."""
    engine = find_engine()
    return engine.report_now() if engine is not None else None


@shared_task(name="serving.control.retry", ignore_result=True)  # type: ignore[untyped-decorator]
def retry(name: str) -> None:
    """Load a model's failed versions again."""
    if (engine := find_engine()) is not None:
        engine.retry(name)


@shared_task(name="serving.control.drain", ignore_result=True)  # type: ignore[untyped-decorator]
def drain(worker_id: str, drained: bool = True) -> None:
    """Let one worker (by its id or node) finish and read no more, or read again."""
    if (engine := find_engine()) is not None and engine.is_named(worker_id):
        engine.drain(drained)


@shared_task(name="serving.load", ignore_result=True)  # type: ignore[untyped-decorator]
def load(name: str, base_path: str, actor: str, policy: str = "latest:1") -> None:
    """Serve a model: deploy it, or change its path and policy."""
    from .models import Deployment
    from .services import change_deployment, create_deployment

    deployment = Deployment.objects.filter(name=name).first()
    if deployment is None:
        create_deployment(name=name, base_path=base_path, actor=actor, policy=policy)
    else:
        change_deployment(deployment=deployment, actor=actor, base_path=base_path, policy=policy)


@shared_task(name="serving.unload", ignore_result=True)  # type: ignore[untyped-decorator]
def unload(name: str, actor: str) -> None:
    """Serve a model no more."""
    from .models import Deployment
    from .services import remove_deployment

    if (deployment := Deployment.objects.filter(name=name).first()) is not None:
        remove_deployment(deployment=deployment, actor=actor)
