"""From method and path to what shall be done to which version of which model.

`parse_route` knows TensorFlow Serving's URLs; `Routes` is one snapshot prepared for look-ups: signatures as codecs want them,
contexts of the log, and the hot paths in a dict. Both are swapped whole with the snapshot.

Paths arrive percent-decoded, after the query string was split off. So a `%2F` in a model's name looks like a `/`: names and labels
that hold `/` or `:` are found by asking which of them exist.

Source of URLs and texts: TensorFlow Serving, model_servers/http_rest_api_util.cc, http_rest_api_handler.cc.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from serving.protocol.errors import ProtocolError
from serving.protocol.tfs_rest import SignatureForm, make_form
from serving.snapshot import EMPTY, Deployment, Signature, Snapshot, Version

from .errors import MalformedRequest, NotFound, NotReady

Verb = Literal["predict", "classify", "regress", "status", "metadata", "openapi", "list"]

_CALL: Final = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)")
_READ: Final = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?")
_MODELS: Final = "/v1/models/"
_VERSIONS: Final = "/versions/"
_LABELS: Final = "/labels/"
_METADATA: Final = "/metadata"
_OPENAPI: Final = re.compile(r"(?i)/v1/models/(.+?)/openapi\.json")
_CALLS: Final[Mapping[str | Any, Verb]] = {"predict": "predict", "classify": "classify", "regress": "regress"}
_MAX_INT64: Final = 2**63 - 1
_COMING: Final = frozenset({"START", "LOADING"})


@dataclass(frozen=True, slots=True)
class Route:
    """What a path names. `version` and `label` are None where it names neither."""

    verb: Verb
    model: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class ServableRoute:
    """One version, ready to be called. `context` and `artifact` name in each leaf what ran."""

    model: str
    version: int
    stream: str
    forms: Mapping[str, SignatureForm]
    context: bytes | None
    artifact: bytes | None


@dataclass(slots=True)
class ModelRoute:
    """A deployment with its versions prepared. `in_flight` is counted by the door and survives a new snapshot.

    predict: the route of a call that names neither version nor label.
    """

    deployment: Deployment
    predict: Route
    servables: Mapping[int, ServableRoute]
    default: ServableRoute | None
    in_flight: "InFlight"

    def find_version(self, number: int) -> Version | None:
        return next((version for version in self.deployment.versions if version.version == number), None)


@dataclass(slots=True)
class InFlight:
    """How many calls of one model are under way in this gateway, and how fast they are answered. Owned by the loop."""

    count: int = 0
    done: int = 0  # since the last measurement
    rate: float = 0.0  # answers per second while many wait, 0 until that was seen
    was_busy: bool = False

    def measure(self, seconds: float, busy_from: int) -> None:
        """Learn the rate of an interval in which work never ran out: only that says what the model can do."""
        is_busy = self.count >= busy_from
        if is_busy and self.was_busy:
            found = self.done / seconds
            self.rate = found if not self.rate else self.rate + (found - self.rate) * 0.3
        self.was_busy, self.done = is_busy, 0

    def wait_s(self) -> float:
        """How long a call that comes now waits for its answer, as far as is known."""
        return self.count / self.rate if self.rate else 0.0


@dataclass(frozen=True, slots=True)
class Routes:
    snapshot: Snapshot = EMPTY
    models: Mapping[str, ModelRoute] = field(default_factory=dict)
    predict: Mapping[str, ModelRoute] = field(default_factory=dict)  # by the path that most calls use


def build_routes(snapshot: Snapshot, *, previous: Routes, make_context: Callable[[dict[str, Any]], bytes]) -> Routes:
    """make_context: gives the digest that names a version's context in leaves (`Recorder.context`)."""
    models: dict[str, ModelRoute] = {}
    for name, deployment in snapshot.deployments.items():
        old = previous.models.get(name)
        if old is not None and old.deployment == deployment and previous.snapshot.origin == snapshot.origin:
            models[name] = old
            continue
        servables = {
            version.version: _servable(snapshot.origin, deployment, version, make_context)
            for version in deployment.versions
            if version.state == "AVAILABLE"
        }
        default = servables.get(deployment.default_version) if deployment.default_version is not None else None
        models[name] = ModelRoute(deployment, Route("predict", name), servables, default, old.in_flight if old is not None else InFlight())
    hot = {f"/v1/models/{name}:predict": model for name, model in models.items() if not set(name) & set("/:")}
    return Routes(snapshot, models, hot)


def _servable(origin: str, deployment: Deployment, version: Version, make_context: Callable[[dict[str, Any]], bytes]) -> ServableRoute:
    context = {
        "origin": origin,
        "model": deployment.name,
        "ver": version.version,
        "artifact": version.artifact,
        "access": deployment.access,
        "max_batch_size": deployment.max_batch_size,
        "timeout_ms": deployment.timeout_ms,
        "stateful": deployment.stateful,
        "answer_output": deployment.answer_output,
    }
    return ServableRoute(
        model=deployment.name,
        version=version.version,
        stream=version.stream,
        forms={name: _form(name, signature) for name, signature in version.signatures.items()},
        context=make_context(context),
        artifact=_digest(version.artifact),
    )


def _form(name: str, signature: Signature) -> SignatureForm:
    return make_form(
        name,
        {alias: spec.dtype for alias, spec in signature.inputs.items()},
        {alias: spec.shape for alias, spec in signature.outputs.items()},
        signature.defaults,
    )


def _digest(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) or None
    except ValueError:
        return None


def parse_route(method: str, path: str, models: Mapping[str, ModelRoute]) -> Route:
    """What a request under `/v1/` asks for. Raises MalformedRequest (400, never 405), NotFound for what isn't under `/v1/`.

    models: to tell names that hold `/` or `:` from path segments.
    """
    if not path[:4].lower() == "/v1/" and path.lower() != "/v1":
        raise NotFound(f"Not found: {path}")
    route = None
    if method == "POST":
        route = _match_call(_CALL.fullmatch(path)) or _known(_split_call(path), models)
    elif method == "GET":
        if openapi := _OPENAPI.fullmatch(path):
            return Route("openapi", openapi.group(1))
        route = _match_read(_READ.fullmatch(path)) or _known(_split_read(path), models)
    if route is None:
        raise MalformedRequest(f"Malformed request: {method} {path}")
    return route


def _match_call(found: re.Match[str] | None) -> Route | None:
    if found is None:
        return None
    model, version, label, verb = found.groups()
    verb = _CALLS.get(verb)  # the reference compares it with case after the match
    return None if verb is None else Route(verb, model, _version(version), label)


def _match_read(found: re.Match[str] | None) -> Route | None:
    if found is None:
        return None
    model, version, label, metadata = found.groups()
    if model is None:
        if version or label or metadata:
            raise ProtocolError("Missing model name in request.")
        return Route("list", "")
    return Route("metadata" if metadata else "status", model, _version(version), label)


def _split_call(path: str) -> Route | None:
    """As `_match_call`, for names and labels that hold `/` or `:`. No pattern: one with two open ends takes quadratic time."""
    name, colon, verb = path[len(_MODELS) :].rpartition(":")
    found = _CALLS.get(verb)
    return _split_name(found, name) if colon and found is not None and path.lower().startswith(_MODELS) else None


def _split_read(path: str) -> Route | None:
    lower = path.lower()
    if not lower.startswith(_MODELS):
        return None
    if lower.endswith(_METADATA):
        return _split_name("metadata", path[len(_MODELS) : -len(_METADATA)])
    return _split_name("status", path[len(_MODELS) :])


def _split_name(verb: Verb, name: str) -> Route | None:
    lower = name.lower()
    if (at := lower.find(_LABELS)) > 0 and (label := name[at + len(_LABELS) :]):
        return Route(verb, name[:at], None, label)
    if (at := lower.rfind(_VERSIONS)) > 0 and re.fullmatch("[0-9]+", digits := name[at + len(_VERSIONS) :]):
        return Route(verb, name[:at], _version(digits))
    return Route(verb, name) if name else None


def _known(route: Route | None, models: Mapping[str, ModelRoute]) -> Route | None:
    if route is None or (model := models.get(route.model)) is None:
        return None
    return route if route.label is None or route.label in model.deployment.labels else None


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text.lstrip("0")) > 19 or (number := int(text.lstrip("0") or "0")) > _MAX_INT64:
        raise ProtocolError(f"Failed to convert version: {text} to numeric.")
    return number


def get_servable(route: Route, model: ModelRoute | None) -> ServableRoute:
    """The version to call. Raises ProtocolError for an unknown label, NotFound, NotReady while it is still being loaded.

    model: what the route names, None when there is none or the caller doesn't see it.
    """
    number = route.version
    if route.label is not None:
        number = model.deployment.labels.get(route.label) if model is not None else None
        if number is None:
            raise ProtocolError(f"Unrecognized servable version label: {route.label}")
    if model is not None:
        servable = model.default if number is None else model.servables.get(number)
        if servable is not None:
            return servable
    text = f"Servable not found for request: {servable_text(route.model, number)}{_explain(model)}"
    if model is not None and _is_coming(model, number):
        raise NotReady(text, retry_after=1.0)
    raise NotFound(text)


def _explain(model: ModelRoute | None) -> str:
    """What is wrong with a deployment of which no version is known, after the reference's own text."""
    return f": {model.deployment.error_message}" if model is not None and _is_faulty(model.deployment) else ""


def _is_faulty(deployment: Deployment) -> bool:
    return not deployment.versions and bool(deployment.error_message)


def servable_text(model: str, version: int | None) -> str:
    return f"Latest({model})" if version is None else f"Specific({model}, {version})"


def _is_coming(model: ModelRoute, number: int | None) -> bool:
    versions = model.deployment.versions
    if _is_faulty(model.deployment):
        return model.deployment.error_code == "UNAVAILABLE"  # its directory can't be read now
    if not versions:
        return number is None  # just deployed: no worker has told of it yet
    return any(version.state in _COMING and number in (None, version.version) for version in versions)


def get_status(route: Route, model: ModelRoute | None) -> list[Version]:
    """The versions that a status request asks for, descending. Raises NotFound, ProtocolError for an unknown label."""
    if model is None or (not model.deployment.versions and route.version is None and route.label is None):
        raise NotFound(f"Could not find any versions of model {route.model}{_explain(model)}")
    number = route.version
    if route.label is not None:
        number = model.deployment.labels.get(route.label)
        if number is None:
            raise ProtocolError(f"Unrecognized servable version label: {route.label}")
    if number is None:
        return list(model.deployment.versions)
    version = model.find_version(number)
    if version is None:
        raise NotFound(f"Could not find version {number} of model {route.model}{_explain(model)}")
    return [version]
