"""One prediction at the door: who calls, whether they may, and their body. What follows, `predictions` does for many at a time."""

import asyncio
from hashlib import sha256
from typing import Final

from .auth import authorize
from .door import Door
from .errors import NotFound, NotImplementedHere
from .exchange import Exchange
from .limits import Limiter
from .predictions import Prediction, prepare
from .routing import ModelRoute, Route, servable_text

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
        if overload is not None or route.verb != "predict":
            exchange.body_sha256 = sha256(body.received).digest()
            raise overload or NotImplementedHere(f"{route.verb} is not served yet; predict answers with the same model's outputs.")
        prediction = Prediction(door, exchange, route, model)
        if len(body.data) > _WORK_ON_LOOP:
            await asyncio.to_thread(prepare, prediction)
            door.predictions.send(prediction)
        else:
            door.predictions.take(prediction)
        is_answered = await prediction.ended
    finally:
        if meter is not None:
            Limiter.leave(meter)
    if not is_answered:
        await door.answer(exchange, prediction.committed, prediction.text)
