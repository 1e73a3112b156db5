"""One prediction, from the caller to the answer, as the list of its steps."""

import asyncio
from hashlib import sha256
from typing import Final

from audit import stored
from serving.dataplane import timing_of
from serving.engine.errors import EngineError
from serving.protocol.messages import InferenceRequest, InferenceResponse
from serving.protocol.tfs_rest import DEFAULT_SIGNATURE, Predict, decode_inputs, encode_predictions, no_such_signature, parse_predict

from .auth import authorize
from .door import Door
from .errors import CallerGone, NotFound, NotImplementedHere, NotReady
from .exchange import Exchange, answer_in_words
from .limits import Limiter
from .routing import ModelRoute, Route, ServableRoute, get_servable, servable_text

# A longer body is stored as the arrays that it was decoded to, which are smaller and cheaper to encrypt (RULES 2.6).
STORED_AS_RECEIVED: Final = 16 * 1024

# Longer bodies are digested and decoded in a thread. Decoding holds the GIL for most of its time all the same, but what is wrong with
# a body is searched in Python.
_WORK_ON_LOOP: Final = 1 << 20

# Of a call that is refused for overload a short body is read nevertheless: a connection with an unread one can't be used again.
_READ_ANYWAY: Final = 64 * 1024


async def predict(door: Door, exchange: Exchange, route: Route, model: ModelRoute | None) -> None:
    """Answer one call. Raises whatever the door's error table knows; then nothing was sent."""
    headers = exchange.scope.headers
    caller = exchange.caller = door.authenticator.authenticate(headers, exchange.scope.client, door.queue.server_now_us)
    exchange.has_caller = True
    overload = None
    if model is not None:
        authorize(caller, model.deployment, "predict", snapshot_is_stale=door.snapshots.is_stale)
        overload = door.find_overload(model)
        if overload is not None and exchange.declares_more_than(_READ_ANYWAY):
            raise overload
    elif caller.actor_type == "anonymous" and exchange.declares_more_than(_READ_ANYWAY):
        raise NotFound(f"Servable not found for request: {servable_text(route.model, route.version)}")  # nobody's body isn't parsed
    meter = None
    if caller.has_limits:
        meter = door.limiter.admit(caller.meter, caller.limits) or await door.limiter.admit_leased(caller.meter, caller.limits)
    try:
        body = exchange.body
        await door.bodies.read(headers, exchange.protocol, body)
        is_long = len(body.data) > _WORK_ON_LOOP
        exchange.body_sha256 = await asyncio.to_thread(_digest, body.received) if is_long else _digest(body.received)
        if overload is not None:
            raise overload
        if route.verb != "predict":
            raise NotImplementedHere(f"{route.verb} is not served yet; predict answers with the same model's outputs.")
        parsed = await asyncio.to_thread(parse_predict, body.data) if is_long else parse_predict(body.data)
        servable = exchange.servable = get_servable(route, door.routes.models)
        exchange.version = servable.version
        exchange.signature = parsed.signature_name or DEFAULT_SIGNATURE
        form = servable.forms.get(exchange.signature)
        if form is None:
            raise no_such_signature(parsed.signature_name)
        decoded = await asyncio.to_thread(decode_inputs, parsed, form) if is_long else decode_inputs(parsed, form)
        exchange.rows = decoded.rows
        assert model is not None  # it has a servable
        response = await _run(door, exchange, model, servable, decoded)
        text = encode_predictions(response.outputs, row_form=decoded.row_form)
    finally:
        if meter is not None:
            Limiter.leave(meter)
    call = exchange.call(
        outcome="ok",
        status=200,
        request=body.data if len(body.data) <= STORED_AS_RECEIVED else _packed(decoded, parsed.signature_name),
        response=text,
        response_bytes=len(text),
        answer=answer_in_words(model.deployment, response.outputs, decoded.rows) if model.deployment.answer_output else "",
    )
    committed = door.recorder.append(call)
    await door.answer(exchange, committed, text)
    door.metrics.counters_of(servable.model, servable.version, form.name, "predict").add(
        total_us=call.total_us + committed.result().commit_us,
        queue_us=call.queue_us,
        model_us=call.model_us,
        commit_us=committed.result().commit_us,
        rows=call.rows,
    )


def _digest(received: bytes) -> bytes:
    return sha256(received).digest()


def _packed(decoded: Predict, signature_name: str) -> bytes:
    envelope: dict[str, object] = {"signature_name": signature_name} if signature_name else {}
    if decoded.output_filter:
        envelope["output_filter"] = list(decoded.output_filter)
    return stored.pack("instances" if decoded.row_form else "inputs", decoded.inputs, envelope)


async def _run(door: Door, exchange: Exchange, model: ModelRoute, servable: ServableRoute, decoded: Predict) -> InferenceResponse:
    """Through the queue to a worker and back."""
    if (overload := door.find_overload(model)) is not None:  # again: others came while the body was read
        raise overload
    under_way = model.in_flight
    request = InferenceRequest(servable.model, servable.version, exchange.signature, decoded.inputs, decoded.rows, decoded.output_filter)
    under_way.count += 1
    try:
        future = exchange.future = door.queue.submit(
            request,
            request_id=exchange.record_id,
            stream=servable.stream,
            deadline_us=door.deadline_us(exchange, model.deployment.timeout_ms),
            trace=exchange.trace,
            caller=exchange.caller.key_prefix,
        )
        response = await future
    except EngineError as error:
        exchange.timing = timing_of(error)
        raise
    except asyncio.CancelledError:
        if exchange.gone:
            raise CallerGone("The caller left before the answer.") from None
        if door.stopping:
            raise NotReady("The gateway is stopping.", retry_after=2.0) from None
        raise
    finally:
        under_way.count -= 1
        under_way.done += 1
        exchange.future = None
    exchange.timing = response.timing
    return response
