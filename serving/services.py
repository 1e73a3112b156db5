"""Changes to what is served, and what workers report of it.

Desired state lives in `Deployment`; managers in the workers converge on it (they ask `desired_models` every two seconds, Celery
only nudges them) and say with `report_status` what they really serve. Each change by a person appends its act to the daybook and
publishes the snapshot in the same transaction.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from audit.acts import record_act
from catalog import services as catalog_services

from .engine.errors import InvalidOptions
from .engine.lifecycle import ModelStatus, VersionStatus
from .engine.options import BatchingOptions, DesiredModel
from .models import NAME, WORKER_SILENT_AFTER, Deployment, ModelFault, VersionState, WorkerState, is_below
from .policy import InvalidPolicy, format_policy, parse_policy
from .publication import announce, publish
from .snapshot import Signature, TensorSpec

logger = logging.getLogger(__name__)


class InvalidDeployment(ValueError):
    """What was asked for can't be served; `field` names what is wrong and the message what was expected."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def create_deployment(
    *,
    name: str,
    base_path: str,
    actor: str,
    policy: str = "latest:1",
    labels: Mapping[str, int] | None = None,
    batching: Mapping[str, Any] | None = None,
    weight: int = 1,
    stateful: bool = False,
    timeout_ms: int = 30_000,
    answer_output: str = "",
    answer_labels: Sequence[str] = (),
    summary: str = "",
    access: str = "key",
    tags: Sequence[str] = (),
    anywhere: bool = False,
) -> Deployment:
    """Serve the model below `base_path` (a directory of version directories) as `name`, and give it a catalog entry.

    anywhere: also outside MODEL_ROOTS; only for who has a shell on the node already.
    Raises InvalidDeployment when a field is wrong; a directory that holds no servable version is no error here: it shows in the
    state of the model, where it is looked at again every few seconds.
    """
    path = _check(name=name, base_path=base_path, policy=policy, anywhere=anywhere)
    _batching(batching or {})
    with transaction.atomic():
        if Deployment.objects.filter(name=name).exists():
            raise InvalidDeployment("name", f"{name!r} is deployed already, expected a new name")
        deployment = Deployment.objects.create(
            name=name,
            base_path=path,
            policy=format_policy(parse_policy(policy)),
            labels=dict(labels or {}),
            batching=dict(batching or {}),
            weight=weight,
            stateful=stateful,
            timeout_ms=timeout_ms,
            answer_output=answer_output,
            answer_labels=list(answer_labels),
            created_by=actor,
        )
        catalog_services.publish_served_entry(
            name=name, actor=actor, summary=summary, access=access, tags=list(tags), class_names=list(answer_labels)
        )
        record_act(kind="deployment.created", actor=actor, subject=name, details={"base_path": path, "policy": deployment.policy})
        publish()
        transaction.on_commit(_nudge_workers)
    return deployment


def change_deployment(*, deployment: Deployment, actor: str, anywhere: bool = False, **changes: Any) -> Deployment:
    """Change fields of a deployment; workers follow without dropping a request.

    Raises InvalidDeployment for a field that can't be changed or has a wrong value.
    """
    changeable = {"base_path", "policy", "labels", "batching", "weight", "timeout_ms", "answer_output", "answer_labels"}
    if unknown := set(changes) - changeable:
        raise InvalidDeployment(min(unknown), f"can't be changed, expected some of {', '.join(sorted(changeable))}")
    if "base_path" in changes or "policy" in changes:
        path = _check(
            name=deployment.name,
            base_path=changes.get("base_path", deployment.base_path),
            policy=changes.get("policy", deployment.policy),
            anywhere=anywhere or "base_path" not in changes,
        )
        changes = {**changes, "base_path": path, "policy": format_policy(parse_policy(changes.get("policy", deployment.policy)))}
    _batching(changes.get("batching", deployment.batching))
    with transaction.atomic():
        for field, value in changes.items():
            setattr(deployment, field, value)
        deployment.save(update_fields=[*changes, "updated_at"])
        details = {field: str(value)[:200] for field, value in changes.items()}
        record_act(kind="deployment.changed", actor=actor, subject=deployment.name, details=details)
        publish()
        transaction.on_commit(_nudge_workers)
    return deployment


def remove_deployment(*, deployment: Deployment, actor: str) -> None:
    """Stop serving a model. Its catalog entry is retired, its records stay."""
    with transaction.atomic():
        Deployment.objects.filter(pk=deployment.pk).delete()
        catalog_services.retire(name=deployment.name, actor=actor)
        record_act(kind="deployment.removed", actor=actor, subject=deployment.name, details={"base_path": deployment.base_path})
        publish()
        transaction.on_commit(_nudge_workers)


def desired_models() -> list[DesiredModel]:
    """What workers shall serve now."""
    return [_desired(deployment) for deployment in Deployment.objects.all()]


def report_status(*, worker_id: str, node: str, device: str, statuses: Sequence[ModelStatus]) -> None:
    """Take down what one worker serves. Called on every change and every few seconds."""
    now = timezone.now()
    with transaction.atomic():
        worker, _ = WorkerState.objects.update_or_create(worker_id=worker_id, defaults={"node": node, "device": device, "seen_at": now})
        WorkerState.objects.filter(seen_at__lt=now - WORKER_SILENT_AFTER).delete()
        _take_down(worker, statuses)
        publish()  # at each report, so that an expired key or a changed access policy gets out without a change of its own here
    announce()


def forget_workers(*, node: str) -> None:
    """Take all workers of a node for gone. For who knows that none runs there, before new ones start: what the old ones served
    isn't served until the new ones say so."""
    with transaction.atomic():
        WorkerState.objects.filter(node=node).delete()
        publish()
    announce()


def _take_down(worker: WorkerState, statuses: Sequence[ModelStatus]) -> None:
    """Make the worker's rows agree with `statuses`."""
    deployments = {deployment.name: deployment for deployment in Deployment.objects.all()}
    known = {(state.deployment_id, state.version): state for state in worker.versions.all()}
    faults = {fault.deployment_id: (fault.error_code, fault.error_message) for fault in worker.faults.all()}
    for status in statuses:
        deployment = deployments.get(status.name)
        if deployment is None:
            continue  # being unloaded, its deployment is gone
        if faults.get(deployment.pk, ("OK", "")) != (status.error_code, status.error_message):
            _take_down_fault(worker, deployment, status)
        for version in status.versions:
            state = known.pop((deployment.pk, version.version), None)
            _take_down_version(worker, deployment, state, version)
    for state in known.values():
        state.delete()


def _take_down_fault(worker: WorkerState, deployment: Deployment, status: ModelStatus) -> None:
    ModelFault.objects.filter(worker=worker, deployment=deployment).delete()
    if status.error_code != "OK":
        ModelFault.objects.create(worker=worker, deployment=deployment, error_code=status.error_code, error_message=status.error_message)
    details = {"worker": worker.worker_id, "error": f"{status.error_code}: {status.error_message}"[:300]}
    record_act(kind="model.directory", actor=f"worker:{worker.node}", subject=deployment.name, details=details)


def _take_down_version(worker: WorkerState, deployment: Deployment, state: VersionState | None, status: VersionStatus) -> None:
    signatures = {name: _signature(status, name) for name in status.signatures}
    fields: dict[str, Any] = {
        "state": str(status.state),
        "error_code": status.error_code,
        "error_message": status.error_message,
        "artifact": status.artifact,
        "signatures": signatures,
        "batching": {name: rule.reason for name, rule in status.rules.items()},
    }
    if state is not None and all(getattr(state, field) == value for field, value in fields.items()):
        return
    VersionState.objects.update_or_create(
        worker=worker, deployment=deployment, version=status.version, defaults={**fields, "since": timezone.now()}
    )
    details = {"version": status.version, "worker": worker.worker_id, "state": fields["state"]}
    if status.error_code != "OK":
        details |= {"error": f"{status.error_code}: {status.error_message}"[:300]}
    if status.state == "AVAILABLE":
        details |= {"artifact": status.artifact}
        catalog_services.record_version(name=deployment.name, version=status.version, artifact=status.artifact, signatures=signatures)
    if state is None or (state.state, state.error_code) != (status.state, status.error_code):
        record_act(kind="version.state", actor=f"worker:{worker.node}", subject=deployment.name, details=details)


def _signature(status: VersionStatus, name: str) -> dict[str, Any]:
    """The engine's signature in the form of `snapshot.Signature`, as JSON gives it back: lists, so that it equals what is stored."""
    signature = status.signatures[name]
    rule = status.rules.get(name)
    view = Signature(
        method_name=signature.method_name,
        inputs={key: TensorSpec(spec.name, spec.dtype, spec.shape) for key, spec in signature.inputs.items()},
        outputs={key: TensorSpec(spec.name, spec.dtype, spec.shape) for key, spec in signature.outputs.items()},
        batched=rule.batched if rule else False,
        defaults={key: _plain(value) for key, value in signature.defaults.items()},
    )
    return cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(view)))


def _plain(value: np.ndarray) -> list[object]:
    """A default's elements, flat, bytes as text; its shape is the input's."""
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value.reshape(-1).tolist()]


def _check(*, name: str, base_path: str, policy: str, anywhere: bool) -> str:
    """The resolved base path. Raises InvalidDeployment."""
    if not NAME.regex.match(name):  # type: ignore[union-attr]
        raise InvalidDeployment("name", f"{name!r} won't do: {NAME.message}")
    try:
        parse_policy(policy)
    except InvalidPolicy as error:
        raise InvalidDeployment("policy", str(error)) from error
    path = Path(base_path).expanduser().resolve()
    if not anywhere and not is_below(str(path), [str(Path(root).resolve()) for root in settings.MODEL_ROOTS]):
        roots = ", ".join(map(str, settings.MODEL_ROOTS))
        raise InvalidDeployment("base_path", f"{base_path} is not below one of the model directories ({roots})")
    if not path.is_dir():
        raise InvalidDeployment("base_path", f"{path} is not a directory, expected one that holds a directory per version")
    return str(path)


def _batching(values: Mapping[str, Any]) -> BatchingOptions:
    """Raises InvalidDeployment for an unknown option or a wrong value."""
    try:
        return BatchingOptions(**{**values, "allowed_batch_sizes": tuple(values.get("allowed_batch_sizes", ()))})
    except (InvalidOptions, TypeError, ValueError) as error:
        raise InvalidDeployment("batching", str(error).removeprefix("BatchingOptions.__init__() ")) from error


def _desired(deployment: Deployment) -> DesiredModel:
    return DesiredModel(
        name=deployment.name,
        base_path=deployment.base_path,
        platform=deployment.platform,
        policy=parse_policy(deployment.policy),
        labels=deployment.labels,
        batching=_batching(deployment.batching),
        weight=deployment.weight,
        stateful=deployment.stateful,
        timeout=deployment.timeout_ms / 1000,
    )


def _nudge_workers() -> None:
    """Tell workers to look now. They look every two seconds anyway, so a broker that is away only costs that time."""
    from .tasks import nudge

    try:
        nudge.apply_async(retry=False)
    except Exception as error:
        logger.info("workers not nudged", extra={"error": str(error)})
