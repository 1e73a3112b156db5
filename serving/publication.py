"""Making the snapshot: from PostgreSQL to every gateway.

`publish` runs inside the transaction that changed something: it takes a lock, builds the snapshot, and writes a row only when the
content differs from the last one. After the commit `announce` puts it into Redis, from where gateways take it within a second.
Workers call `announce` every few seconds too, so a restarted Redis is filled again without anybody's help.
"""

import hashlib
import hmac
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping

import msgspec
import redis
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from catalog.rights import Rights, rights_of
from catalog.services import ReportedVersion, record_states

from .fields import make_desired
from .models import APIKey, Deployment, PublishedSnapshot, VersionState, WorkerState
from .snapshot import EMPTY, Key, Limits, Signature, Snapshot, Version, decode_snapshot, encode_snapshot
from .snapshot import Deployment as DeploymentView

logger = logging.getLogger(__name__)

PUBLISH_LOCK = 0x6461_7962_0001  # "dayb", 1: one publisher at a time, so that versions grow in commit order
KEPT = 20

STATES = ("AVAILABLE", "LOADING", "START", "UNLOADING", "END")  # the state of a version is the best one that any worker reports


def publish() -> None:
    """Write a new snapshot if anything in it changed. Call inside the transaction of the change."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [PUBLISH_LOCK])
    last = PublishedSnapshot.objects.order_by("-version").first()
    before = _read(last) if last else EMPTY
    snapshot = build(before)
    digest = hashlib.sha256(encode_snapshot(snapshot)).hexdigest()
    if last is not None and last.digest == digest:
        return
    row = PublishedSnapshot(digest=digest, body=b"")
    row.save(force_insert=True)
    made_us = int(row.made_at.timestamp() * 1_000_000)
    row.body = encode_snapshot(msgspec.structs.replace(snapshot, version=row.version, made_us=made_us))
    decode_snapshot(row.body)  # what no gateway could read isn't published: the change that made it fails
    row.save(update_fields=["body"])
    _tell_catalog(snapshot, before)
    PublishedSnapshot.objects.filter(version__lte=row.version - KEPT).delete()
    transaction.on_commit(announce)


def _read(row: PublishedSnapshot) -> Snapshot:
    """A published snapshot; the empty one when it can't be read (it's of another release), so that the next can be published."""
    try:
        return decode_snapshot(bytes(row.body))
    except msgspec.MsgspecError as error:
        logger.error("snapshot not readable", extra={"snapshot": row.version, "error": str(error)})
        return EMPTY


def _tell_catalog(snapshot: Snapshot, last: Snapshot) -> None:
    """The model pages show the states that gateways route by."""
    for deployment in snapshot.deployments.values():
        if deployment != last.deployments.get(deployment.name):
            record_states(
                name=deployment.name,
                versions=[
                    ReportedVersion(version.version, version.state, version.error_code, version.error_message)
                    for version in deployment.versions
                ],
                labels=deployment.labels,
                default_version=deployment.default_version,
            )


def announce() -> None:
    """Put the newest snapshot into Redis and tell gateways. Redis being away is no error: the next call makes up for it."""
    row = PublishedSnapshot.objects.order_by("-version").first()
    if row is None:
        return
    prefix = settings.REDIS_PREFIX
    try:
        client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2)
        try:
            if client.get(f"{prefix}snapshot:version") == str(row.version).encode():
                return
            with client.pipeline() as pipe:
                pipe.set(f"{prefix}snapshot:current", bytes(row.body))
                pipe.set(f"{prefix}snapshot:version", row.version)
                pipe.publish(f"{prefix}snapshot", row.version)
                pipe.execute()
        finally:
            client.close()
    except redis.RedisError as error:
        logger.warning("snapshot not announced", extra={"snapshot": row.version, "error": str(error)})


def current() -> Snapshot | None:
    row = PublishedSnapshot.objects.order_by("-version").first()
    return _read(row) if row else None


def try_it_secret() -> str:
    """Signs try-it tokens; made from SECRET_KEY, so that it lives exactly as long."""
    return hmac.digest(settings.SECRET_KEY.encode(), b"daybook/try-it/v1", "sha256").hex()


def build(last: Snapshot) -> Snapshot:
    """The snapshot of what the database says now, without version and time. last: the one that gateways route by."""
    believed = WorkerState.objects.all().believed()
    rows = Deployment.objects.with_states()
    rights = rights_of([deployment.name for deployment in rows])
    subscriptions = _subscriptions(rights)
    deployments = {}
    for deployment in rows:
        name = deployment.name
        deployments[name] = _deployment(deployment, rights.get(name, Rights()), believed, last.deployments.get(name))
    return Snapshot(
        version=0,
        made_us=0,
        origin=settings.LOG_ORIGIN,
        deployments=deployments,
        keys={key.sha256: _key(key, subscriptions) for key in _keys()},
        try_it_secret=try_it_secret(),
        site_origin=settings.SITE_URL.rstrip("/"),
    )


def _subscriptions(rights: Mapping[str, Rights]) -> dict[tuple[str, str], list[str]]:
    """(user name, application) → the models that it was approved for."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(rights):
        for application in rights[name].approved:
            found[application].append(name)
    return found


def _deployment(deployment: Deployment, rights: Rights, believed: frozenset[str], last: DeploymentView | None) -> DeploymentView:
    """A row that can't be published is shown with its error alone, so that the others and the keys can be."""
    try:
        make_desired(deployment)
        view = _view(deployment, rights, believed, last)
        return msgspec.json.decode(msgspec.json.encode(view), type=DeploymentView)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError) as error:  # InvalidDeployment is a ValueError
        logger.error("deployment can't be published", extra={"deployment": deployment.name, "error": str(error)})
        text = f"{deployment.name} can't be served as it is configured: {error}"
        return _without_versions(deployment, rights, text)


def _without_versions(deployment: Deployment, rights: Rights, text: str) -> DeploymentView:
    return DeploymentView(
        name=deployment.name,
        access=rights.access,  # type: ignore[arg-type]  # one of the three by the model's choices
        visibility=rights.visibility,  # type: ignore[arg-type]  # likewise
        seen_by=rights.seen_by,
        subscribers=tuple(sorted({user for user, _ in rights.approved})),
        versions=(),
        labels={},
        default_version=None,
        error_code="FAILED_PRECONDITION",
        error_message=text,
    )


def _view(deployment: Deployment, rights: Rights, believed: frozenset[str], last: DeploymentView | None) -> DeploymentView:
    versions = _versions(deployment, believed)
    available = [version.version for version in versions if version.state == "AVAILABLE"]
    fault = next((fault for fault in deployment.faults.all() if fault.worker_id in believed), None)
    return DeploymentView(
        name=deployment.name,
        access=rights.access,  # type: ignore[arg-type]  # one of the three by the model's choices
        visibility=rights.visibility,  # type: ignore[arg-type]  # likewise
        seen_by=rights.seen_by,
        subscribers=tuple(sorted({user for user, _ in rights.approved})),
        versions=tuple(versions),
        labels=_labels(deployment.labels, available, last.labels if last is not None else {}),
        default_version=max(available, default=None),
        max_batch_size=deployment.batching.get("max_batch_size", 64),
        timeout_ms=deployment.timeout_ms,
        stateful=deployment.stateful,
        answer_labels=tuple(deployment.answer_labels),
        answer_output=deployment.answer_output,
        error_code=fault.error_code if fault else "OK",
        error_message=fault.error_message if fault else "",
    )


def _labels(wanted: Mapping[str, int], available: Collection[int], last: Mapping[str, int]) -> dict[str, int]:
    """Where labels lead. One that was moved stays on its last version until the new one is AVAILABLE, so that its callers don't see
    the load, nor a load that fails."""
    labels = {}
    for label, version in wanted.items():
        kept = last.get(label, version)
        labels[label] = kept if kept in available and version not in available else version
    return labels


def _versions(deployment: Deployment, believed: frozenset[str]) -> list[Version]:
    """One entry per version, descending: the best state over these workers, and its error when none of them has it ready."""
    reported: dict[int, list[VersionState]] = defaultdict(list)
    for state in deployment.version_states.all():
        if state.worker_id in believed:
            reported[state.version].append(state)
    versions = []
    for number in sorted(reported, reverse=True):
        best = min(reported[number], key=lambda state: STATES.index(state.state))
        versions.append(
            Version(
                version=number,
                state=best.state,
                error_code=best.error_code,
                error_message=best.error_message,
                artifact=best.artifact,
                stream=f"{settings.REDIS_PREFIX}q:{deployment.name}@{number}",
                signatures=msgspec.convert(best.signatures, dict[str, Signature]),
            )
        )
    return versions


def _keys() -> list[APIKey]:
    now = timezone.now()
    return list(APIKey.objects.usable(now).select_related("application__owner").filter(application__owner__is_active=True))


def _key(key: APIKey, subscriptions: Mapping[tuple[str, str], list[str]]) -> Key:
    user = key.application.owner.get_username()
    return Key(
        sha256=key.sha256,
        prefix=key.prefix,
        application=key.application.name,
        user=user,
        scopes=tuple(key.scopes),
        apis=tuple(key.apis),
        expires_us=int(key.expires_at.timestamp() * 1_000_000) if key.expires_at else None,
        limits=Limits(requests_per_second=key.requests_per_second, concurrency=key.concurrency),
        subscriptions=tuple(subscriptions.get((user, key.application.name), ())),
    )
