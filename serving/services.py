"""Changes to what is served, and what workers report of it.

Desired state lives in `Deployment`; managers in the workers converge on it (they ask `desired_models` every two seconds, Celery
only nudges them) and say with `report_status` what they really serve. Each change by a person appends its act to the daybook and
publishes the snapshot in the same transaction.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec
from django.db import DataError, IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from audit.acts import record_act
from catalog import services as catalog_services

from .engine.lifecycle import ModelStatus, VersionStatus
from .engine.options import DesiredModel
from .fields import InvalidDeployment, check_fields, check_name, check_path, make_desired
from .models import Deployment, ModelFault, VersionState, WorkerState
from .publication import announce, publish
from .snapshot import Signature, TensorSpec
from .storable import clean, clean_text

logger = logging.getLogger(__name__)


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
    check_name(name)
    path = check_path(base_path, anywhere=anywhere)
    fields = check_fields(
        {
            "policy": policy,
            "labels": labels or {},
            "batching": batching or {},
            "weight": weight,
            "stateful": stateful,
            "timeout_ms": timeout_ms,
            "answer_output": answer_output,
            "answer_labels": answer_labels,
        }
    )
    with transaction.atomic():
        if Deployment.objects.filter(name=name).exists():
            raise InvalidDeployment("name", f"{name!r} is deployed already, expected a new name")
        deployment = Deployment(name=name, base_path=path, created_by=actor, **fields)
        make_desired(deployment)
        deployment.save(force_insert=True)
        catalog_services.publish_served_entry(
            name=name, actor=actor, summary=summary, access=access, tags=list(tags), class_names=list(answer_labels)
        )
        record_act(kind="deployment.created", actor=actor, subject=name, details={"policy": deployment.policy}, note=path)
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
    if "base_path" in changes:
        changes["base_path"] = check_path(changes["base_path"], anywhere=anywhere)
    changes |= check_fields({field: value for field, value in changes.items() if field != "base_path"})
    with transaction.atomic():
        for field, value in changes.items():
            setattr(deployment, field, value)
        make_desired(deployment)
        deployment.save(update_fields=[*changes, "updated_at"])
        # Where models lie is the operator's business: paths stand in the row, never in a leaf.
        details = {field: "changed" if field == "base_path" else str(value)[:200] for field, value in changes.items()}
        record_act(kind="deployment.changed", actor=actor, subject=deployment.name, details=details, note=changes.get("base_path", ""))
        publish()
        transaction.on_commit(_nudge_workers)
    return deployment


def remove_deployment(*, deployment: Deployment, actor: str) -> None:
    """Stop serving a model. Its catalog entry is retired, its records stay."""
    with transaction.atomic():
        Deployment.objects.filter(pk=deployment.pk).delete()
        catalog_services.retire(name=deployment.name, actor=actor)
        record_act(kind="deployment.removed", actor=actor, subject=deployment.name, details={}, note=deployment.base_path)
        publish()
        transaction.on_commit(_nudge_workers)


def retry_deployment(*, deployment: Deployment, actor: str) -> None:
    """Have workers load versions again that failed for good, for who has mended something that isn't in their files.

    A worker that doesn't hear of it now never does: this isn't desired state.
    """
    with transaction.atomic():
        record_act(kind="deployment.retried", actor=actor, subject=deployment.name, details={})
        transaction.on_commit(partial(_tell_workers, "retry", deployment.name))


def desired_models() -> list[DesiredModel]:
    """What workers shall serve now. A row that can't be served is left out, logged and shown in its state; the others go on."""
    return [model for deployment in Deployment.objects.all() if (model := _find_desired(deployment)) is not None]


def _find_desired(deployment: Deployment) -> DesiredModel | None:
    try:
        return make_desired(deployment)
    except InvalidDeployment as error:
        logger.error("deployment can't be served", extra={"deployment": deployment.name, "error": str(error)})
        return None


def report_status(*, worker_id: str, node: str, device: str, statuses: Sequence[ModelStatus]) -> None:
    """Take down what one worker serves. Called on every change and every few seconds."""
    with transaction.atomic():
        if WorkerState.objects.live().exists():
            WorkerState.objects.silent().delete()
        else:  # nobody could report while PostgreSQL was away: the others get the same time again to do so
            WorkerState.objects.update(seen_at=Now())
        fields = {"node": node, "device": clean_text(device)[:100], "seen_at": Now()}
        worker, _ = WorkerState.objects.update_or_create(worker_id=worker_id, defaults=fields)
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
        fault = (status.error_code, clean_text(status.error_message))
        if faults.get(deployment.pk, ("OK", "")) != fault:
            _take_down_fault(worker, deployment, *fault)
        for version in status.versions:
            state = known.pop((deployment.pk, version.version), None)
            _take_down_version(worker, deployment, state, version)
    for state in known.values():
        state.delete()


def _take_down_fault(worker: WorkerState, deployment: Deployment, code: str, message: str) -> None:
    ModelFault.objects.filter(worker=worker, deployment=deployment).delete()
    if code != "OK":
        ModelFault.objects.create(worker=worker, deployment=deployment, error_code=code, error_message=message)
    details = {"worker": worker.worker_id, "error": code}  # the message names paths
    record_act(kind="model.directory", actor=f"worker:{worker.node}", subject=deployment.name, details=details, note=message)


def _take_down_version(worker: WorkerState, deployment: Deployment, state: VersionState | None, status: VersionStatus) -> None:
    """What can't be stored of a version becomes its error, so that one odd model doesn't stop the report of all."""
    try:
        _write_version(worker, deployment, state, status.version, _describe(status))
    except (DataError, IntegrityError, ValueError, TypeError, OverflowError) as error:
        text = clean_text(f"version {status.version} of {deployment.name} can't be published: {type(error).__name__}: {error}")
        logger.error("version not reported", extra={"deployment": deployment.name, "error": text})
        try:
            _write_version(worker, deployment, state, status.version, _describe_fault(text))
        except (DataError, IntegrityError) as fault:  # its very number has no place
            logger.error("version left out", extra={"deployment": deployment.name, "error": str(fault)})


def _describe(status: VersionStatus) -> dict[str, Any]:
    """A version as `VersionState` holds it."""
    return {
        "state": str(status.state),
        "error_code": status.error_code,
        "error_message": clean_text(status.error_message),
        "artifact": status.artifact,
        "signatures": clean({name: _signature(status, name) for name in status.signatures}),
        "batching": clean({name: rule.reason for name, rule in status.rules.items()}),
    }


def _describe_fault(text: str) -> dict[str, Any]:
    """END, since gateways can't call what they can't be told of."""
    return {"state": "END", "error_code": "INTERNAL", "error_message": text, "artifact": "", "signatures": {}, "batching": {}}


def _write_version(worker: WorkerState, deployment: Deployment, state: VersionState | None, number: int, fields: Mapping[str, Any]) -> None:
    """Take down a change of a version, with its act and for the catalog: all of it or nothing."""
    if state is not None and all(getattr(state, field) == value for field, value in fields.items()):
        return
    details = {"version": number, "worker": worker.worker_id, "state": fields["state"]}
    if fields["error_code"] != "OK":
        details |= {"error": fields["error_code"]}
    with transaction.atomic():
        VersionState.objects.update_or_create(
            worker=worker, deployment=deployment, version=number, defaults={**fields, "since": timezone.now()}
        )
        if fields["state"] == "AVAILABLE":
            details |= {"artifact": fields["artifact"]}
            catalog_services.record_version(
                name=deployment.name, version=number, artifact=fields["artifact"], signatures=fields["signatures"]
            )
        if state is None or (state.state, state.error_code) != (fields["state"], fields["error_code"]):
            actor, note = f"worker:{worker.node}", fields["error_message"]
            record_act(kind="version.state", actor=actor, subject=deployment.name, details=details, note=note)


def _signature(status: VersionStatus, name: str) -> dict[str, Any]:
    """The engine's signature in the form of `snapshot.Signature`, as JSON gives it back: lists, so that it equals what is stored."""
    signature = status.signatures[name]
    rule = status.rules.get(name)
    view = Signature(
        method_name=signature.method_name,
        inputs={key: TensorSpec(spec.name, spec.dtype, spec.shape) for key, spec in signature.inputs.items()},
        outputs={key: TensorSpec(spec.name, spec.dtype, spec.shape) for key, spec in signature.outputs.items()},
        batched=rule.batched if rule else False,
        defaults={key: clean(value.reshape(-1).tolist()) for key, value in signature.defaults.items()},
    )
    return cast(dict[str, Any], msgspec.to_builtins(view))


def _nudge_workers() -> None:
    """Tell workers to look now. They look every two seconds anyway, so a broker that is away only costs that time."""
    _tell_workers("nudge")


def _tell_workers(task: str, *arguments: str) -> None:
    """Broadcast a control task."""
    from . import tasks

    try:
        getattr(tasks, task).apply_async(arguments, retry=False)
    except Exception as error:
        logger.info("workers not told", extra={"task": task, "error": str(error)})
