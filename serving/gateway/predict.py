"""One prediction at the door: who calls, whether they may, and their body. What follows, `predictions` does for many at a time."""

import asyncio
from typing import Final

from .auth import authorize, sees
from .door import Door
from .errors import NotFound, NotImplementedHere
from .exchange import Exchange
from .http import INFLATE_IN_THREAD, inflate, is_gzipped
from .predictions import Prediction, prepare
from .routing import servable_text

# Longer bodies are digested and decoded in a thread. Decoding holds the GIL for most of its time all the same, but what is wrong with
# a body is searched in Python.
_WORK_ON_LOOP: Final = 1 << 20

# Of a call that is refused at its head a short body is read nevertheless: a connection with an unread one can't be used again.
READ_ANYWAY: Final = 64 * 1024


def admit(door: Door, exchange: Exchange) -> None:
    """Let a call in whose head is there, or raise why not."""
    request, model = exchange.request, exchange.target
    caller = exchange.caller = door.authenticator.authenticate(request.headers, request.client, door.queue.server_now_us)
    exchange.has_caller = True
    if model is not None and not sees(caller, model.deployment):
        model = exchange.target = None
    if model is not None:
        authorize(caller, model.deployment, "predict", snapshot_is_stale=door.snapshots.is_stale)
        if (overload := door.find_overload(model)) is not None:
            raise overload
    elif caller.actor_type == "anonymous" and request.declares_more_than(READ_ANYWAY):
        raise NotFound(f"Servable not found for request: {servable_text(exchange.model, exchange.route.version)}")  # nobody's isn't parsed
    if caller.has_limits:
        exchange.meter = door.limiter.admit(caller.meter, caller.limits)


def predict(door: Door, exchange: Exchange) -> None:
    """Send a call on its way whose body is there."""
    request = exchange.request
    body = exchange.data = request.body
    if exchange.lacks_lease or len(body) > _WORK_ON_LOOP or is_gzipped(request.headers) or exchange.verb != "predict":
        door.spawn(_predict_slowly(door, exchange))
    else:
        door.predictions.take(Prediction(door, exchange))


async def _predict_slowly(door: Door, exchange: Exchange) -> None:
    """The same for a call that has to wait for something first."""
    request, caller = exchange.request, exchange.caller
    try:
        if exchange.lacks_lease:
            exchange.meter = await door.limiter.admit_leased(caller.meter, caller.limits)
        if is_gzipped(request.headers):
            await _inflate(door, exchange)
        if exchange.verb != "predict":
            exchange.digest()
            raise NotImplementedHere(f"{exchange.verb} is not served yet; predict answers with the same model's outputs.")
        prediction = Prediction(door, exchange)
        if len(exchange.data) > _WORK_ON_LOOP:
            await asyncio.to_thread(prepare, prediction)
            door.predictions.send(prediction)
        else:
            door.predictions.take(prediction)
    except Exception as error:
        door.refuse(exchange, error)


async def _inflate(door: Door, exchange: Exchange) -> None:
    """Raises BadEncoding, BodyTooLarge, TooMany."""
    request, room = exchange.request, door.options.max_body_bytes
    if len(request.body) > INFLATE_IN_THREAD:
        exchange.data = await asyncio.to_thread(inflate, request.body, room)
    else:
        exchange.data = inflate(request.body, room)
    request.hold(len(exchange.data), limit=2 * room)
