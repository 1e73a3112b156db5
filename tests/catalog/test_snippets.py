"""The code that the pages offer is run or compiled as it stands."""

import ast
import json
import shlex
from collections.abc import Mapping

from catalog.snippets import predict_url, snippets

URL = predict_url("http://127.0.0.1:8501/", "half_plus_two")
BODY = {"instances": [{"name": 'it\'s "quoted"\n', "ok": True, "none": None, "x": 1.5}], "signature_name": "serving_default"}


def code(body: Mapping[str, object] | None, *, with_key: bool = True) -> dict[str, str]:
    return {snippet.language: snippet.code for snippet in snippets(URL, body, with_key=with_key)}


def test_urls_name_the_version_or_label() -> None:
    assert URL == "http://127.0.0.1:8501/v1/models/half_plus_two:predict"
    assert predict_url("http://g", "m", version=3) == "http://g/v1/models/m/versions/3:predict"
    assert predict_url("http://g", "m", label="a/b") == "http://g/v1/models/m/labels/a%2Fb:predict"


def test_curl_survives_the_shell() -> None:
    words = shlex.split(code(BODY)["curl"])
    assert words[:2] == ["curl", URL]
    assert json.loads(words[words.index("--data") + 1]) == BODY
    assert "Authorization: Bearer $DAYBOOK_API_KEY" in words
    assert "Authorization" not in code(BODY, with_key=False)["curl"]


def test_python_holds_the_body_as_a_literal() -> None:
    for with_key in (True, False):
        tree = ast.parse(code(BODY, with_key=with_key)["Python"])
        [body] = [
            keyword.value for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords if keyword.arg == "json"
        ]
        assert ast.literal_eval(body) == BODY


def test_long_or_missing_bodies_come_from_a_file() -> None:
    for body in (None, {"instances": [[0.0] * 1000]}):
        made = code(body)
        assert "--data @request.json" in made["curl"]
        assert 'open("request.json")' in made["Python"]
        assert 'readFile("request.json")' in made["JavaScript"]
        ast.parse(made["Python"])
