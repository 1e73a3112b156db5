"""The parts that need no server: tokens, addresses, traces, the error table, readiness words, answers in words."""

import contextlib
import gzip
import time

import numpy as np
import pytest

from audit.errors import LogStalled, LogUnavailable
from serving.dataplane import NoWorker, RedisLost
from serving.engine.errors import Code, DeadlinePassed, EngineError, InvalidInput, QueueFull, RunFailed, UnknownServable
from serving.gateway import errors, tryit
from serving.gateway.auth import Authenticator, Caller, authorize, key_text, truncate_address
from serving.gateway.exchange import answer_in_words
from serving.gateway.http import inflate
from serving.gateway.metrics import Metrics
from serving.gateway.routing import InFlight, Routes, build_routes, get_servable, parse_route
from serving.gateway.trace import format_trace, parse_trace
from serving.protocol.errors import ProtocolError, UnsupportedType
from serving.snapshot import Limits
from tests.serving.gateway.snapshots import make_deployment, make_key, make_snapshot, make_version

NOW = 1_800_000_000_000_000


def test_a_try_it_token_says_who_may_try_what() -> None:
    token = tryit.mint(secret="s", user="ada", api="digits", origin="http://site", now_us=NOW)
    found = tryit.verify(token, secret="s", origin="http://site", now_us=NOW + 299_000_000)
    assert (found.user, found.api, found.expires_us) == ("ada", "digits", NOW + 300_000_000)


@pytest.mark.parametrize("now_us", [NOW + 300_000_000, NOW - 60_000_000, 0])
def test_a_try_it_token_lives_five_minutes(now_us: int) -> None:
    token = tryit.mint(secret="s", user="ada", api="digits", origin="http://site", now_us=NOW)
    with pytest.raises(tryit.InvalidTryIt):
        tryit.verify(token, secret="s", origin="http://site", now_us=now_us)


def test_each_bit_of_a_try_it_token_counts() -> None:
    token = tryit.mint(secret="s", user="ada", api="digits", origin="http://site", now_us=NOW)
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(tryit.InvalidTryIt):
            tryit.verify(changed, secret="s", origin="http://site", now_us=NOW)


def test_a_try_it_token_needs_a_secret_and_a_short_life() -> None:
    with pytest.raises(ValueError, match="secret"):
        tryit.mint(secret="", user="a", api="b", origin="c")
    with pytest.raises(ValueError, match="300"):
        tryit.mint(secret="s", user="a", api="b", origin="c", lifetime_s=301)
    with pytest.raises(tryit.InvalidTryIt):
        tryit.verify("a.b", secret="", origin="", now_us=NOW)


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("2001:db8::1", "2001:db8::/48"),
        ("::1", "::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unix", ""),
        ("", ""),
        ("a:b", ""),
    ],
)
def test_records_keep_a_network_not_an_address(address: str, kept: str) -> None:
    assert truncate_address(address) == kept


def test_keys_are_found_in_headers() -> None:
    assert key_text("Bearer abc") == "abc"
    assert key_text("abc") == "abc"
    assert key_text("Basic OmFiYw==") == "abc"
    assert key_text("Basic YWJjOg==") == "abc"
    assert key_text("Basic YWJj") == "abc"
    assert key_text("Basic ***") == key_text("Digest x") == key_text("") == key_text("Bearer") == ""


def test_a_remembered_key_ends_with_its_snapshot_and_its_expiry() -> None:
    snapshot = make_snapshot("p:")
    key = make_key("all", expires_us=NOW)
    with_expiry = Authenticator(
        type(snapshot)(**{**{f: getattr(snapshot, f) for f in snapshot.__struct_fields__}, "keys": {key.sha256: key}})
    )
    headers = {"authorization": "Bearer dbk_00000001_all"}
    assert with_expiry.authenticate(headers, "127.0.0.1:1", lambda: NOW - 1).key_prefix == "dbk_00000001"
    with pytest.raises(errors.Unauthenticated, match="expired"):
        with_expiry.authenticate(headers, "127.0.0.1:1", lambda: NOW)
    with pytest.raises(errors.Unauthenticated, match="not valid"):
        Authenticator(make_snapshot("p:", without_keys=("all",))).authenticate(headers, "127.0.0.1:1", lambda: NOW)


def test_a_stale_snapshot_opens_no_key() -> None:
    caller = Caller("key", "key:a", Limits(), scopes=frozenset(("*",)), apis=frozenset(("*",)))
    closed, opened = make_deployment("p:", "half_plus_two"), make_deployment("p:", "open_half")
    with pytest.raises(errors.NotReady):
        authorize(caller, closed, "predict", snapshot_is_stale=True)
    authorize(caller, opened, "predict", snapshot_is_stale=True)
    authorize(caller, closed, "predict", snapshot_is_stale=False)


def test_trace_contexts_follow_the_recommendation() -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    assert parse_trace(f"00-{trace}-{span}-01") == (bytes.fromhex(trace), b"01")
    assert parse_trace(f"cc-{trace}-{span}-01-what-the-future-brings") == (bytes.fromhex(trace), b"01")
    for wrong in (None, "", f"00-{trace}-{span}-01-more", f"ff-{trace}-{span}-01", f"00-{trace.upper()}-{span}-01", f"00-{trace}-{span}"):
        assert parse_trace(wrong) is None
    assert format_trace(bytes.fromhex(trace), b"01", bytes(range(16))) == f"00-{trace}-08090a0b0c0d0e0f-01".encode()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ProtocolError("x"), 400, "INVALID_ARGUMENT"),
        (UnsupportedType("x"), 501, "UNIMPLEMENTED"),
        (InvalidInput("x"), 400, "INVALID_ARGUMENT"),
        (UnknownServable("x"), 404, "NOT_FOUND"),
        (QueueFull("x"), 429, "RESOURCE_EXHAUSTED"),
        (DeadlinePassed("x"), 504, "DEADLINE_EXCEEDED"),
        (NoWorker("x"), 503, "UNAVAILABLE"),
        (RedisLost("x"), 503, "UNAVAILABLE"),
        (RunFailed("x", Code.FAILED_PRECONDITION), 400, "FAILED_PRECONDITION"),
        (RunFailed("x", Code.DATA_LOSS), 500, "DATA_LOSS"),
        (RunFailed("x"), 500, "UNKNOWN"),
        (EngineError("x"), 500, "INTERNAL"),
        (LogUnavailable("x"), 503, "UNAVAILABLE"),
        (LogStalled("x"), 503, "UNAVAILABLE"),
        (errors.Unauthenticated("x"), 401, "UNAUTHENTICATED"),
        (errors.Forbidden("x"), 403, "PERMISSION_DENIED"),
        (errors.TooMany("x"), 429, "RESOURCE_EXHAUSTED"),
        (errors.BodyTooLarge("x"), 413, "OUT_OF_RANGE"),
        (errors.BodyTooSlow("x"), 408, "DEADLINE_EXCEEDED"),
        (errors.CallerGone("x"), 499, "CANCELLED"),
        (errors.NotReady("x"), 503, "UNAVAILABLE"),
        (KeyError("x"), 500, "INTERNAL"),
    ],
)
def test_one_table_gives_every_error_its_status(error: Exception, status: int, code: str) -> None:
    assert (errors.status_of(error), errors.code_of(error)) == (status, code)
    assert errors.text_of(error)
    assert (errors.retry_after_of(error, status) is not None) == (status in (429, 503))


def test_what_nobody_foresaw_tells_nothing_about_us() -> None:
    assert "secret" not in errors.text_of(KeyError("secret"))


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert errors.retry_after_of(errors.TooMany("x", retry_after=0.01), 429) == 1
    assert errors.retry_after_of(errors.TooMany("x", retry_after=2.2), 429) == 3


def test_an_answer_is_said_in_words_only_where_declared() -> None:
    scores = {"scores": np.array([[0.1, 0.7, 0.2], [0.9, 0.1, 0.0]], np.float32)}
    labelled = make_deployment("p:", "digits", answer_labels=("zero", "one", "two"), answer_output="scores")
    assert answer_in_words(labelled, scores, 2) == "one 0.70 (+1)"
    assert answer_in_words(make_deployment("p:", "digits"), scores, 2) == ""
    value = make_deployment("p:", "half_plus_two", answer_output="y")
    assert answer_in_words(value, {"y": np.array([[7]], np.int64)}, 1) == "7"
    assert answer_in_words(value, {"y": np.array([], np.float32)}, 0) == ""
    assert answer_in_words(value, {}, 0) == ""
    text = np.empty(1, object)
    text[0] = "ä".encode()
    assert answer_in_words(value, {"y": text}, 1) == "ä"


@pytest.mark.parametrize(
    ("number", "text"),
    [(2.54321, "2.54321"), (500_002, "500002"), (3.0, "3"), (0.1, "0.1"), (-1e-7, "-1e-07"), (16_777_216, "16777216"), (1e30, "1e+30")],
)
def test_a_number_is_said_whole(number: float, text: str) -> None:
    deployment = make_deployment("p:", "half_plus_two", answer_output="y")
    said = answer_in_words(deployment, {"y": np.array([number], np.float32)}, 1)
    assert (said, np.float32(said)) == (text, np.float32(number))
    assert answer_in_words(deployment, {"y": np.array([0.1 + 0.2])}, 1) == "0.30000000000000004"


def test_routes_keep_what_did_not_change() -> None:
    contexts: list[dict[str, object]] = []

    def make_context(details: dict[str, object]) -> bytes:
        contexts.append(details)
        return bytes(32)

    first = build_routes(make_snapshot("p:"), previous=Routes(), make_context=make_context)
    made = len(contexts)
    two = make_deployment("p:", "picky", versions=(make_version("p:", "picky", 2), make_version("p:", "picky", 1)), default_version=2)
    second = build_routes(make_snapshot("p:", version=2, picky=two, slow=None), previous=first, make_context=make_context)
    assert second.models["half_plus_two"] is first.models["half_plus_two"]
    assert len(contexts) == made + 2
    assert "slow" not in second.models
    assert "/v1/models/slow:predict" not in second.predict
    assert second.models["picky"].in_flight is first.models["picky"].in_flight
    assert get_servable(parse_route("POST", "/v1/models/picky:predict", second.models), second.models["picky"]).version == 2
    assert get_servable(parse_route("POST", "/v1/models/picky/versions/1:predict", second.models), second.models["picky"]).version == 1
    assert all(isinstance(value, str | int | bool) for context in contexts for value in context.values())


def test_inflate_stops_at_the_limit() -> None:
    assert inflate(gzip.compress(b"a" * 100), 100) == b"a" * 100
    with pytest.raises(errors.BodyTooLarge):
        inflate(gzip.compress(b"a" * 101), 100)
    bomb = gzip.compress(b"a" * (32 << 20), 1)
    begun = time.process_time()
    with pytest.raises(errors.BodyTooLarge):
        inflate(bomb, 1 << 10)
    assert time.process_time() - begun < 0.01  # it stopped early
    with pytest.raises(errors.BadEncoding):
        inflate(b"", 100) or inflate(b"\x1f\x8b", 100)


def test_inflate_takes_few_members() -> None:
    member = gzip.compress(b"a")
    assert inflate(member * 64, 100) == b"a" * 64
    with pytest.raises(errors.BadEncoding, match="64 members"):
        inflate(member * 65, 100)


def test_no_path_takes_long() -> None:
    models = build_routes(make_snapshot("p:"), previous=Routes(), make_context=lambda details: bytes(32)).models
    for tail in ("/labels/a", "/versions/1", ":predict", "/metadata", ":", "/"):
        path = "/v1/models/" + tail * (8192 // len(tail))
        begun = time.process_time()
        for method in ("GET", "POST"):
            with contextlib.suppress(errors.GatewayError):
                parse_route(method, path, models)
        assert time.process_time() - begun < 0.01


def test_metrics_count_by_servable() -> None:
    metrics = Metrics()
    for total_us in (5, 100, 10**9):
        metrics.counters_of("a", 1, "s", "predict").add(total_us=total_us, queue_us=1, model_us=2, commit_us=3, rows=4)
    metrics.refuse('odd"name', 404, "NOT_FOUND")
    text = metrics.text().decode()
    labels = 'model="a",signature="s",verb="predict",version="1"'
    assert f"daybook_request_seconds_count{{{labels}}} 3.0" in text
    assert f"daybook_rows_total{{{labels}}} 12.0" in text
    assert 'daybook_refused_total{code="NOT_FOUND",model="odd\\"name",status="404"} 1.0' in text
    theirs = metrics.tensorflow_serving_text().decode()
    assert ':tensorflow:serving:request_latency_bucket{model_name="a",API="predict",entrypoint="REST",le="+Inf"} 3' in theirs


def test_the_rate_of_a_model_is_learned_while_it_is_busy() -> None:
    under_way = InFlight(count=100)
    under_way.measure(0.5, 64)
    assert under_way.wait_s() == 0.0  # nothing is known yet
    under_way.done = 50
    under_way.measure(0.5, 64)
    assert under_way.wait_s() == pytest.approx(1.0)
    under_way.count = 3
    under_way.done = 1
    under_way.measure(0.5, 64)  # idle intervals say nothing
    under_way.count = 200
    assert under_way.wait_s() == pytest.approx(2.0)
