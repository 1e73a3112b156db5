"""Code that calls a model, ready to paste: the URL that the developer will really use, a placeholder for the key. Pure."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

KEY_VARIABLE = "DAYBOOK_API_KEY"
_LONG = 600  # a longer body goes into a file, in curl


@dataclass(frozen=True, slots=True)
class Snippet:
    language: str  # "curl"
    highlight: str  # "bash"
    code: str


def predict_url(gateway_url: str, model: str, *, version: int | None = None, label: str = "") -> str:
    base = f"{gateway_url.rstrip('/')}/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{base}/versions/{version}:predict"
    return f"{base}/labels/{quote(label, safe='')}:predict" if label else f"{base}:predict"


def snippets(url: str, body: Mapping[str, Any], *, with_key: bool) -> list[Snippet]:
    """The same call three times."""
    compact = json.dumps(body, ensure_ascii=False)
    return [
        Snippet("curl", "bash", _curl(url, compact, with_key)),
        Snippet("Python", "python", _python(url, body, with_key)),
        Snippet("JavaScript", "javascript", _javascript(url, body, with_key)),
    ]


def _curl(url: str, body: str, with_key: bool) -> str:
    lines = [f"curl {shlex.quote(url)}"]
    if with_key:
        lines.append(f'-H "Authorization: Bearer ${KEY_VARIABLE}"')
    lines.append("-H 'Content-Type: application/json'")
    lines.append(f"--data {shlex.quote(body)}" if len(body) <= _LONG else "--data @request.json")
    return " \\\n  ".join(lines)


def _python(url: str, body: Mapping[str, Any], with_key: bool) -> str:
    lines = ["import os", "", "import requests", ""] if with_key else ["import requests", ""]
    lines += ["answer = requests.post(", f"    {_string(url)},"]
    if with_key:
        lines.append(f'    headers={{"Authorization": f"Bearer {{os.environ[\'{KEY_VARIABLE}\']}}"}},')
    lines += [
        f"    json={_shortened(_python_literal(body))},",
        "    timeout=30,",
        ")",
        "answer.raise_for_status()",
        "print(answer.json())",
        'print("record", answer.headers["Daybook-Record"])',
    ]
    return "\n".join(lines)


def _javascript(url: str, body: Mapping[str, Any], with_key: bool) -> str:
    lines = [f"const answer = await fetch({_string(url)}, {{", '  method: "POST",', "  headers: {"]
    if with_key:
        lines.append(f"    Authorization: `Bearer ${{process.env.{KEY_VARIABLE}}}`,")
    lines += ['    "Content-Type": "application/json",', "  },"]
    lines += [
        f"  body: JSON.stringify({_shortened(json.dumps(body, ensure_ascii=False))}),",
        "});",
        "if (!answer.ok) throw new Error((await answer.json()).error);",
        "console.log(await answer.json());",
        'console.log("record", answer.headers.get("Daybook-Record"));',
    ]
    return "\n".join(lines)


def _string(text: str) -> str:
    """A literal that Python and JavaScript read alike."""
    return json.dumps(text)


def _python_literal(value: Any) -> str:
    """Python source of a JSON value, with double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_python_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_python_literal, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _shortened(source: str) -> str:
    """A body too long to read stands in a file or a variable of its own."""
    return source if len(source) <= _LONG else "request"
