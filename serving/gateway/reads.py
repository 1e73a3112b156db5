"""What can be asked about models: status, metadata, description, the list. Answered from the snapshot; recorded without payload."""

from typing import Any

import msgspec
import orjson

from catalog.openapi.generate import ServedModel, describe
from catalog.signatures import decode_signatures
from serving.protocol.tfs_status import (
    ListedModel,
    SignatureInfo,
    TensorInfo,
    VersionState,
    encode_metadata,
    encode_models,
    encode_status,
)
from serving.snapshot import Deployment, Signature, TensorSpec, Version

from .auth import authorize, is_listed, sees
from .door import Door
from .errors import Forbidden, NotFound
from .exchange import Exchange
from .routing import Route, get_servable, get_status


def admit(door: Door, exchange: Exchange) -> None:
    """Let a question in, or raise why not."""
    request, model = exchange.request, exchange.target
    caller = exchange.caller = door.authenticator.authenticate(request.headers, request.client, door.queue.server_now_us)
    exchange.has_caller = True
    if model is not None and not sees(caller, model.deployment):
        model = exchange.target = None
    if model is not None:
        authorize(caller, model.deployment, "metadata", snapshot_is_stale=door.snapshots.is_stale)
    elif caller.actor_type != "anonymous" and caller.scopes.isdisjoint(("metadata", "*")):
        raise Forbidden(f"The API key {caller.key_prefix} lacks the scope metadata.")
    if caller.has_limits:
        exchange.meter = door.limiter.admit(caller.meter, caller.limits)


async def read(door: Door, exchange: Exchange) -> None:
    """Answer one question."""
    try:
        if exchange.lacks_lease:
            exchange.meter = await door.limiter.admit_leased(exchange.caller.meter, exchange.caller.limits)
        text = _text(door, exchange, exchange.route)
        committed = await door.recorder.append(exchange.call(outcome="ok", status=200, response_bytes=len(text)))
    except Exception as error:
        door.refuse(exchange, error)
    else:
        await door.answer(exchange, committed, text)


def _text(door: Door, exchange: Exchange, route: Route) -> bytes:
    model = exchange.target
    match route.verb:
        case "list":
            deployments = [model.deployment for model in door.routes.models.values() if is_listed(exchange.caller, model.deployment)]
            return encode_models(_listed(deployment) for deployment in sorted(deployments, key=lambda deployment: deployment.name))
        case "openapi":
            if model is None:
                raise NotFound(f"Could not find any versions of model {route.model}")
            return _description(model.deployment, door.options.gateway_url)
        case "metadata":
            servable = get_servable(route, model)
            exchange.version = servable.version
            assert model is not None
            version = model.find_version(servable.version)
            assert version is not None  # it has a servable
            signatures = {name: _signature(signature) for name, signature in version.signatures.items()}
            return encode_metadata(route.model, version.version, signatures)
        case _:
            versions = get_status(route, model)
            if len(versions) == 1:
                exchange.version = versions[0].version
            return encode_status(map(_state, versions))


def _state(version: Version) -> VersionState:
    return VersionState(version.version, version.state, version.error_code, version.error_message)


def _listed(deployment: Deployment) -> ListedModel:
    return ListedModel(
        deployment.name,
        deployment.access,
        deployment.default_version,
        deployment.labels,
        [_state(version) for version in deployment.versions],
        deployment.error_code,
        deployment.error_message,
    )


def _signature(signature: Signature) -> SignatureInfo:
    def tensors(specs: dict[str, TensorSpec]) -> dict[str, TensorInfo]:
        return {alias: TensorInfo(spec.name, spec.dtype, spec.shape) for alias, spec in specs.items()}

    return SignatureInfo(signature.method_name, tensors(signature.inputs), tensors(signature.outputs))


def _description(deployment: Deployment, gateway_url: str) -> bytes:
    """OpenAPI 3.1 of the versions that can be called now; the catalog's document adds the card and the owner's examples."""
    ready = [version for version in deployment.versions if version.state == "AVAILABLE"]
    shown = next((version for version in ready if version.version == deployment.default_version), None)
    signatures: Any = msgspec.to_builtins(shown.signatures) if shown is not None else {}
    document = describe(
        ServedModel(
            name=deployment.name,
            versions=tuple(version.version for version in ready),
            labels=deployment.labels,
            signatures=decode_signatures(signatures),
            default_version=deployment.default_version,
            access=deployment.access,
            gateway_url=gateway_url,
        )
    )
    return orjson.dumps(document)
