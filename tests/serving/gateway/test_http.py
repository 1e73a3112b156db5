"""Paths, methods, bodies and headers, well-formed and not. Nothing here may end in a 500."""

import contextlib
import gzip
import json
import socket
import time
import zlib

import pytest

from tests.serving.gateway.conftest import Door, read_answer
from tests.serving.gateway.snapshots import KEYS, SITE, make_deployment

PREDICT = "/v1/models/half_plus_two:predict"
KEY = f"X-API-Key: {KEYS['all']}\r\n".encode()
HEAD = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\n" + KEY


def test_status_follows_the_reference(door: Door) -> None:
    versions = [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    for path in ("", "/versions/1", "/labels/stable"):
        assert door.get(f"/v1/models/half_plus_two{path}").json() == {"model_version_status": versions}
    assert door.get("/v1/models/half_plus_two/versions/7").json() == {"error": "Could not find version 7 of model half_plus_two"}
    assert door.get("/v1/models/half_plus_two/labels/none").json() == {"error": "Unrecognized servable version label: none"}
    unknown = door.get("/v1/models/nobody")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Could not find any versions of model nobody"})


def test_metadata_follows_the_reference(door: Door) -> None:
    found = door.get("/v1/models/half_plus_two/metadata").json()
    assert found["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    assert found["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"] == {
        "x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}, "name": "x:0"}
    }
    assert door.get("/v1/models/half_plus_two/METADATA").json() == found
    assert door.get("/v1/models/nobody/metadata").json() == {"error": "Servable not found for request: Latest(nobody)"}
    assert door.get("/v1/models/half_plus_two/labels/none/metadata").status_code == 400


def test_a_model_describes_itself(door: Door) -> None:
    found = door.get("/v1/models/half_plus_two/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    assert "/v1/models/half_plus_two:predict" in found["paths"]
    assert door.get("/v1/models/nobody/openapi.json").status_code == 404


def test_queries_are_ignored_and_keywords_have_no_case(door: Door) -> None:
    assert door.predict("half_plus_two", {"instances": [2]}).json() == {"predictions": [3.0]}
    answer = door.http.post(
        "/V1/Models/half_plus_two/Versions/1:predict?x=1&y=%00", json={"instances": [2]}, headers={"X-API-Key": KEYS["all"]}
    )
    assert answer.json() == {"predictions": [3.0]}
    assert door.get("/v1/models/half_plus_two?cache=1").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/half_plus_two:PREDICT"),
        ("POST", "/v1/models/half_plus_two"),
        ("POST", "/v1/models/half_plus_two:predict/"),
        ("POST", "/v1/models/half_plus_two/versions/x:predict"),
        ("POST", "/v1/models/half_plus_two/versions/1/labels/stable:predict"),
        ("GET", "/v1/models/half_plus_two:predict"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/other"),
        ("GET", "/v1/"),
        ("GET", "/v1"),
        ("PUT", "/v1/models/half_plus_two"),
        ("DELETE", "/v1/models/half_plus_two"),
        ("FOO", "/v1/models/half_plus_two"),
        ("HEAD", "/v1/models/half_plus_two"),
    ],
)
def test_other_shapes_are_malformed(door: Door, method: str, path: str) -> None:
    answer = door.http.request(method, path)
    assert answer.status_code == 400
    if method != "HEAD":
        assert answer.json() == {"error": f"Malformed request: {method} {path}"}
    assert answer.headers["daybook-record"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v2/models", "/v1x/models", "/healthz/x", "/%00", "/%ff%fe", "/..%2f..%2fetc/passwd"])
def test_elsewhere_is_404_in_json(door: Door, path: str) -> None:
    answer = door.http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("Not found: /")


@pytest.mark.parametrize("name", ["a%2Fb", "a%3Ab", "%00", "%ff%fe", "%25", "%E2%82%AC", "%22%5C", "a" * 5_000])
def test_odd_names_are_unknown_models(door: Door, name: str) -> None:
    answer = door.http.post(f"/v1/models/{name}:predict", content=b"{}", headers={"X-API-Key": KEYS["all"]})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]
    assert door.get(f"/v1/models/{name}").status_code in (400, 404)


def test_names_and_labels_that_need_escapes_are_found(door: Door) -> None:
    odd = make_deployment(door.prefix, "half_plus_two", labels={"a/b:c": 1})
    door.publish_and_wait(half_plus_two=odd)
    try:
        answer = door.http.post(
            "/v1/models/half_plus_two/labels/a%2Fb%3Ac:predict", json={"instances": [2]}, headers={"X-API-Key": KEYS["all"]}
        )
        assert answer.json() == {"predictions": [3.0]}
        assert door.get("/v1/models/half_plus_two/labels/a%2Fb%3Ac").status_code == 200
    finally:
        door.publish_and_wait()


@pytest.mark.parametrize(
    "head",
    [
        b"X-API-Key: \xff\xfe\r\n",
        b"Authorization: Bearer \xc3\xa9\r\n",
        b"traceparent: \xff\r\n",
        b"Daybook-Timeout-Ms: -1\r\n",
        b"Daybook-Timeout-Ms: 99999999999999999999\r\n",
        b"Daybook-Timeout-Ms: \xd9\xa1\r\n",
        b"Content-Encoding: \xff\r\n",
        b"Accept-Encoding: gzip;q=\xff\r\n",
        b"Origin: \xff\r\n",
        b"Daybook-Try-It: \xff\r\n",
        b"Content-Encoding: br\r\n",
    ],
)
def test_odd_headers_do_no_harm(door: Door, head: bytes) -> None:
    body = b'{"instances":[2]}'
    answer = door.raw(HEAD + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert int(answer.split(b" ")[1]) in (200, 400, 401), answer
    answer = door.raw(HEAD.replace(KEY, b"") + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert int(answer.split(b" ")[1]) in (400, 401), answer


@pytest.mark.parametrize("target", [b"/\xff\xfe", b"/a\x00b", b"/a b", b"", b"*", b"//", b"http://h:8501" + PREDICT.encode()])
def test_odd_targets_are_refused(door: Door, target: bytes) -> None:
    answer = door.raw(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert int(answer.split(b" ")[1]) in (400, 404), answer


def test_what_is_no_http_is_told_so_and_recorded(door: Door) -> None:
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
    ):
        answer = door.raw(nonsense)
        assert answer.startswith(b"HTTP/1.1 400"), answer
        assert b"connection: close" in answer
        assert b"daybook-record" in answer
        assert b"Malformed request: " in answer
    both = HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"  # how requests are smuggled
    assert door.raw(both).startswith(b"HTTP/1.1 400")


def test_a_head_without_end_is_431(door: Door) -> None:
    for head in (
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(120)) + b"\r\n",
        HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        HEAD + b"X: " + b"x" * 300_000,
    ):
        answer = door.raw(head)
        assert answer.startswith(b"HTTP/1.1 431"), answer[:200]
        assert b"daybook-record" in answer
    assert door.raw(b"GET /healthz HTTP/1.1\r\nX: 1\r\n").startswith(b"HTTP/1.1 408")


def test_pipelined_requests_are_answered_in_their_order(door: Door) -> None:
    bodies = [b'{"instances":[%d]}' % number for number in range(200)]
    slow = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\n" + KEY + b'Content-Length: 19\r\n\r\n{"instances":[0.3]}'
    sent = slow + b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    found = b""
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=10.0) as connection:
        connection.sendall(sent)
        while found.count(b"HTTP/1.1 ") < 201 or not found.endswith(b"}"):
            found += connection.recv(65_536)
    answers = [part.rpartition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert answers == [b'{"predictions":[0.3]}', *(b'{"predictions":[%.1f]}' % (number / 2 + 2) for number in range(200))]


def test_old_and_odd_ways_to_speak_http(door: Door) -> None:
    body = b'{"instances":[2]}'
    length = b"Content-Length: %d\r\n" % len(body)
    expects = HEAD + length + b"Expect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=5.0) as connection:
        connection.sendall(expects)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).endswith(b'{"predictions":[3.0]}')
    upgrade = HEAD + length + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + body
    assert door.raw(upgrade).endswith(b'{"predictions":[3.0]}')
    answer = door.raw(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + length + b"\r\n" + body)
    assert b"connection: close" in answer
    assert answer.endswith(b'{"predictions":[3.0]}')
    answer = door.raw(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + length + b"Connection: keep-alive\r\n\r\n" + body)
    assert b"connection: keep-alive" in answer
    assert b"\r\ndate: " in answer


def test_what_comes_byte_by_byte_is_the_same(door: Door) -> None:
    body = b'{"instances":[2]}'
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=5.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body:
            connection.sendall(bytes((byte,)))
        assert read_answer(connection).endswith(b'{"predictions":[3.0]}')


def test_a_body_may_come_in_chunks(door: Door) -> None:
    chunks = b'11\r\n{"instances":[1,2\r\n2\r\n]}\r\n0\r\n\r\n'
    assert door.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).endswith(b'{"predictions":[2.5,3.0]}')


def test_a_large_body_is_413(door: Door) -> None:
    limit = 1 << 20
    fits = b'{"instances":[2]}' + b" " * (limit - 17)
    assert door.predict("half_plus_two", fits).json() == {"predictions": [3.0]}
    declared = door.raw(HEAD + b"Content-Length: %d\r\n\r\n" % (limit + 1))
    assert declared.startswith(b"HTTP/1.1 413")
    assert b"daybook-record" in declared
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=5.0) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(40):
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        answer = read_answer(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 413")  # a reset connection may take the answer with it
    assert door.predict("half_plus_two", {"instances": [2]}).status_code == 200


def test_a_slow_body_is_408(door: Door) -> None:
    begun = time.monotonic()
    answer = door.raw(HEAD + b'Content-Length: 17\r\n\r\n{"inst')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 1 seconds" in answer
    assert 0.8 < time.monotonic() - begun < 4.0
    answer = door.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_caller_who_leaves_within_the_body_harms_nobody(door: Door) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=5.0) as connection:
            connection.sendall(HEAD + b'Content-Length: 17\r\n\r\n{"inst')
    assert door.predict("half_plus_two", {"instances": [2]}).status_code == 200


def test_gzip_goes_in(door: Door) -> None:
    body = gzip.compress(b'{"instances":[2]}')
    for encoding in ("gzip", "x-gzip", "identity, GZIP"):
        assert door.predict("half_plus_two", body, headers={"Content-Encoding": encoding}).json() == {"predictions": [3.0]}
    halves = gzip.compress(b'{"instances"') + gzip.compress(b":[2]}") + b"\0\0"
    assert door.predict("half_plus_two", halves, headers={"Content-Encoding": "gzip"}).json() == {"predictions": [3.0]}


def test_a_gzip_bomb_is_413_and_damage_400(door: Door) -> None:
    def send(body: bytes) -> tuple[int, str]:
        answer = door.predict("half_plus_two", body, headers={"Content-Encoding": "gzip"})
        return answer.status_code, answer.json()["error"]

    status, text = send(gzip.compress(b" " * (64 << 20)))
    assert (status, text) == (413, "The decompressed body is larger than 1 MB.")
    assert send(gzip.compress(b'{"instances":[2]}')[:-9]) == (400, "The gzip body is cut off.")
    status, text = send(b'{"instances":[2]}')
    assert status == 400
    assert text.startswith("The body is not gzip")
    assert send(zlib.compress(b"{}"))[0] == 400


def test_gzip_comes_out_when_asked_for(door: Door) -> None:
    body = json.dumps({"instances": [1.0] * 3000}).encode()
    packed = door.predict("half_plus_two", body, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.json()["predictions"]) == 3000
    for accepted in ("identity", "gzip;q=0", "br"):
        assert "content-encoding" not in door.predict("half_plus_two", body, headers={"Accept-Encoding": accepted}).headers


def test_only_the_site_may_read_answers_in_a_browser(door: Door) -> None:
    own = door.predict("half_plus_two", {"instances": [2]}, headers={"Origin": SITE})
    assert own.headers["access-control-allow-origin"] == SITE
    assert "Daybook-Record" in own.headers["access-control-expose-headers"]
    refused = door.predict("half_plus_two", {}, headers={"Origin": SITE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, SITE)
    for origin in ("http://evil.example", "null", SITE + ".evil.example", SITE.upper()):
        assert "access-control-allow-origin" not in door.predict("half_plus_two", {"instances": [2]}, headers={"Origin": origin}).headers


def test_preflight_answers_the_site_alone(door: Door) -> None:
    own = door.http.options(PREDICT, headers={"Origin": SITE, "Access-Control-Request-Method": "POST"})
    assert own.status_code == 200
    assert own.headers["access-control-allow-origin"] == SITE
    assert "Daybook-Try-It" in own.headers["access-control-allow-headers"]
    other = door.http.options(PREDICT, headers={"Origin": "https://evil.example"})
    assert (other.status_code, other.headers.get("access-control-allow-origin")) == (200, None)
    assert door.http.options(PREDICT).status_code == 400


def test_health_and_metrics_need_no_key(door: Door) -> None:
    assert door.http.get("/healthz").text == "ok\n"
    assert door.http.get("/readyz").json()["ready"] is True
    door.predict("half_plus_two", {"instances": [2]})
    door.predict("nobody-" + "x" * 50, {})
    own = door.http.get("/metrics").text
    assert 'daybook_request_seconds_count{model="half_plus_two",signature="serving_default",verb="predict",version="1"}' in own
    assert "nobody-" not in own
    theirs = door.http.get("/monitoring/prometheus/metrics?x=1").text
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}' in theirs
    assert ':tensorflow:serving:request_latency_count{model_name="half_plus_two",API="predict",entrypoint="REST"}' in theirs
