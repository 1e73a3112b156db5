"""Predictions on their way: what has come within one tick of the loop takes each step together.

All bodies of a tick are digested, then all parsed, all decoded, all sent; replies that came together are encoded, then recorded;
records that became durable together are answered. Call by call, each in a task of its own, the same steps find the caches cold at
every one of them and cost a wake-up each.

No call has a task or a future of its own. Where a step fails, that call leaves with the error and the others go on.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from audit import stored
from audit.record import Call
from audit.recorder import Committed
from serving.dataplane import timing_of
from serving.engine.errors import EngineError
from serving.protocol.messages import InferenceRequest, InferenceResponse
from serving.protocol.tfs_rest import (
    DEFAULT_SIGNATURE,
    ParsedPredict,
    Predict,
    SignatureForm,
    decode_inputs,
    encode_predictions,
    no_such_signature,
    parse_predict,
)

from .errors import CallerGone
from .exchange import Exchange, answer_in_words
from .routing import ServableRoute, get_servable

if TYPE_CHECKING:
    from .door import Door

# A longer body is stored as the arrays that it was decoded to, which are smaller and cheaper to encrypt (RULES 2.6).
STORED_AS_RECEIVED: Final = 16 * 1024


class Prediction:
    """One call on its way and what the steps have made of it. The queue takes it for the future of its reply."""

    __slots__ = (
        "call",
        "committed",
        "decoded",
        "door",
        "ended",
        "exchange",
        "form",
        "is_under_way",
        "parsed",
        "response",
        "servable",
        "text",
    )

    call: Call
    committed: Committed
    decoded: Predict
    form: SignatureForm
    parsed: ParsedPredict
    response: InferenceResponse
    servable: ServableRoute
    text: bytes

    def __init__(self, door: "Door", exchange: Exchange) -> None:
        self.door = door
        self.exchange = exchange
        self.is_under_way = False  # between queue and reply
        self.ended = False  # answered or refused

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.ended = True
            self.door.refuse(self.exchange, error)

    # To the worker

    def digest(self) -> None:
        self.exchange.digest()

    def parse(self) -> None:
        self.parsed = parse_predict(self.exchange.data)

    def decode(self) -> None:
        exchange, parsed = self.exchange, self.parsed
        # By the newest snapshot, since the body took its time; but what wasn't there for the caller at the head still isn't.
        model = self.door.routes.models.get(exchange.model) if exchange.target is not None else None
        servable = self.servable = exchange.servable = get_servable(exchange.route, model)
        exchange.version = servable.version
        exchange.signature = parsed.signature_name or DEFAULT_SIGNATURE
        form = servable.forms.get(exchange.signature)
        if form is None:
            raise no_such_signature(parsed.signature_name)
        self.form = form
        decoded = self.decoded = decode_inputs(parsed, form)
        exchange.rows = decoded.rows

    def send(self) -> None:
        door, exchange, servable, decoded = self.door, self.exchange, self.servable, self.decoded
        model = exchange.target
        assert model is not None  # it has a servable
        if (overload := door.find_overload(model)) is not None:  # again: others came while the body was read
            raise overload
        door.queue.send(
            InferenceRequest(servable.model, servable.version, exchange.signature, decoded.inputs, decoded.rows, decoded.output_filter),
            self,
            request_id=exchange.record_id,
            stream=servable.stream,
            deadline_us=door.deadline_us(exchange, model.deployment.timeout_ms),
            trace=exchange.trace,
            caller=exchange.caller.meter,
        )
        exchange.waiting = self
        self.is_under_way = True
        model.in_flight.count += 1

    # The reply, as a future takes it

    def done(self) -> bool:
        return not self.is_under_way

    def set_result(self, response: InferenceResponse) -> None:
        if not self._leave_model():
            return
        self.response = response
        self.exchange.timing = response.timing
        self.door.predictions.reply(self)

    def set_exception(self, error: BaseException) -> None:
        if self._leave_model():
            if isinstance(error, EngineError):
                self.exchange.timing = timing_of(error)
            self.fail(error)

    def cancel(self) -> None:
        if self._leave_model():
            self.fail(CallerGone("The caller left before the answer."))

    def _leave_model(self) -> bool:
        """False when it has ended already."""
        if not self.is_under_way:
            return False
        assert self.exchange.target is not None
        under_way = self.exchange.target.in_flight
        under_way.count -= 1
        under_way.done += 1
        self.is_under_way = False
        self.exchange.waiting = None
        return True

    # To the caller

    def encode(self) -> None:
        self.text = encode_predictions(self.response.outputs, row_form=self.decoded.row_form)

    def describe(self) -> None:
        exchange, decoded, text = self.exchange, self.decoded, self.text
        model, data = exchange.target, exchange.data
        assert model is not None
        self.call = exchange.call(
            outcome="ok",
            status=200,
            request=data if len(data) <= STORED_AS_RECEIVED else _packed(decoded, self.parsed.signature_name),
            response=text,
            response_bytes=len(text),
            answer=answer_in_words(model.deployment, self.response.outputs, decoded.rows) if model.deployment.answer_output else "",
        )

    def record(self) -> None:
        self.door.recorder.put(self.call, Recording(self))

    def answer(self) -> None:
        self.ended = True
        door = self.door
        if not door.answer_at_once(self.exchange, self.committed, self.text):
            door.spawn(door.answer(self.exchange, self.committed, self.text))

    def count(self) -> None:
        call, servable = self.call, self.servable
        self.door.metrics.counters_of(servable.model, servable.version, self.form.name, "predict").add(
            total_us=call.total_us + self.committed.commit_us,
            queue_us=call.queue_us,
            model_us=call.model_us,
            commit_us=self.committed.commit_us,
            rows=call.rows,
        )


class Recording:
    """Who waits for a prediction's record, as the recorder takes a future."""

    __slots__ = ("_prediction",)

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction

    def done(self) -> bool:
        return self._prediction.ended

    def set_result(self, committed: Committed) -> None:
        prediction = self._prediction
        prediction.committed = committed
        prediction.door.predictions.commit(prediction)

    def set_exception(self, error: BaseException) -> None:
        self._prediction.fail(error)


Step = Callable[[Prediction], None]

_TO_WORKER: Final[tuple[Step, ...]] = (Prediction.digest, Prediction.parse, Prediction.decode, Prediction.send)
_TO_RECORD: Final[tuple[Step, ...]] = (Prediction.encode, Prediction.describe, Prediction.record)
_TO_CALLER: Final[tuple[Step, ...]] = (Prediction.answer, Prediction.count)


class Predictions:
    """The three places at which calls are gathered. Belongs to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.take = _Gathering(loop, _TO_WORKER).add  # whose body is there
        self.send = _Gathering(loop, (Prediction.send,)).add  # which is decoded already
        self.reply = _Gathering(loop, _TO_RECORD).add  # which has its reply
        self.commit = _Gathering(loop, _TO_CALLER).add  # whose record is durable


class _Gathering:
    """What came since the loop came by last, and the steps that it takes then, one over all after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, steps: tuple[Step, ...]) -> None:
        self._loop = loop
        self._steps = steps
        self._waiting: list[Prediction] = []

    def add(self, prediction: Prediction) -> None:
        if not self._waiting:
            self._loop.call_soon(self._run)
        self._waiting.append(prediction)

    def _run(self) -> None:
        going, self._waiting = self._waiting, []
        for step in self._steps:
            failed = False
            for prediction in going:
                try:
                    step(prediction)
                except Exception as error:
                    prediction.fail(error)
                    failed = True
            if failed:
                going = [prediction for prediction in going if not prediction.ended]


def prepare(prediction: Prediction) -> None:
    """What comes before sending, for a body that is too long for the loop. Any thread."""
    prediction.digest()
    prediction.parse()
    prediction.decode()


def _packed(decoded: Predict, signature_name: str) -> bytes:
    envelope: dict[str, object] = {"signature_name": signature_name} if signature_name else {}
    if decoded.output_filter:
        envelope["output_filter"] = list(decoded.output_filter)
    return stored.pack("instances" if decoded.row_form else "inputs", decoded.inputs, envelope)
