"""Code that calls a model, ready to paste: the URL that the developer will really use, a placeholder for the key. Pure."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

KEY_VARIABLE = "DAYBOOK_API_KEY"
BODY_FILE = "request.json"
_LONG = 600


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


def snippets(url: str, body: Mapping[str, Any] | None, *, with_key: bool) -> list[Snippet]:
    """The same call three times. A body that is None or too long to read in code comes from the file `request.json`."""
    compact = "" if body is None else json.dumps(body, ensure_ascii=False)
    if len(compact) > _LONG:
        body = None
    return [
        Snippet("curl", "bash", _curl(url, None if body is None else compact, with_key)),
        Snippet("Python", "python", _python(url, body, with_key)),
        Snippet("JavaScript", "javascript", _javascript(url, body, with_key)),
    ]


def _curl(url: str, body: str | None, with_key: bool) -> str:
    lines = [f"curl {shlex.quote(url)}"]
    if with_key:
        lines.append(f'-H "Authorization: Bearer ${KEY_VARIABLE}"')
    lines.append("-H 'Content-Type: application/json'")
    lines.append(f"--data {shlex.quote(body)}" if body is not None else f"--data @{BODY_FILE}")
    return " \\\n  ".join(lines)


def _python(url: str, body: Mapping[str, Any] | None, with_key: bool) -> str:
    lines = [*(["import json"] if body is None else []), *(["import os"] if with_key else [])]
    lines += [""] if lines else []
    lines += ["import requests", ""]
    if body is None:
        lines += [f'with open("{BODY_FILE}") as file:', "    request = json.load(file)", ""]
    lines += ["answer = requests.post(", f"    {json.dumps(url)},"]
    if with_key:
        lines.append(f'    headers={{"Authorization": "Bearer " + os.environ["{KEY_VARIABLE}"]}},')
    lines += [
        f"    json={'request' if body is None else _python_literal(body)},",
        "    timeout=30,",
        ")",
        "answer.raise_for_status()",
        "print(answer.json())",
        'print("record", answer.headers["Daybook-Record"])',
    ]
    return "\n".join(lines)


def _javascript(url: str, body: Mapping[str, Any] | None, with_key: bool) -> str:
    lines = []
    if body is None:
        lines += ['import { readFile } from "node:fs/promises";', ""]
    lines += [f"const answer = await fetch({json.dumps(url)}, {{", '  method: "POST",', "  headers: {"]
    if with_key:
        lines.append(f"    Authorization: `Bearer ${{process.env.{KEY_VARIABLE}}}`,")
    written = f'await readFile("{BODY_FILE}")' if body is None else f"JSON.stringify({json.dumps(body, ensure_ascii=False)})"
    lines += [
        '    "Content-Type": "application/json",',
        "  },",
        f"  body: {written},",
        "});",
        "if (!answer.ok) throw new Error((await answer.json()).error);",
        "console.log(await answer.json());",
        'console.log("record", answer.headers.get("Daybook-Record"));',
    ]
    return "\n".join(lines)


def _python_literal(value: Any) -> str:
    """Python source of a JSON value, with double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_python_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_python_literal, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
