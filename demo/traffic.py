"""The demo's calls: real inputs through the real gateway, by several callers, right ones and wrong ones.

Asks nothing that the models weren't made for, and lets each answer stand as it comes; only counts are looked at here.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo.content import cases, digits, numbers, prompts

CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Call:
    path: str  # below /v1/models/
    body: Any
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def calls(keys: Mapping[str, str]) -> list[Call]:
    """keys: as `demo.seed` keeps them."""
    mail, cases_key, demo = keys["MAIL_ROOM_KEY"], keys["CASE_DESK_KEY"], keys["DAYBOOK_API_KEY"]
    scans = digits()
    made = [Call("digits:predict", {"instances": [scan.image]}, mail) for scan in scans[:140]]
    made += [Call("digits/labels/baseline:predict", {"instances": [scan.image]}, mail) for scan in scans[140:180]]
    made += [
        Call("digits/versions/2:predict", {"inputs": {"image": [s.image for s in scans[i : i + 20]]}}, demo) for i in range(180, 360, 20)
    ]
    made += [Call("risk:predict", {"instances": [case.inputs]}, cases_key) for case in cases()]
    made += [Call("verse:predict", {"instances": [prompt]}) for prompt in prompts()]
    made += [Call("half_plus_two:predict", {"instances": [x]}, demo) for x in numbers() * 4]
    wrong = [
        Call("digits:predict", {"instances": [[1.0, 2.0]]}, mail),
        Call("digits:predict", {"instances": [["seven"]]}, mail),
        Call("digits:predict", {}, mail),
        Call("digits/versions/3:predict", {"instances": [scans[0].image]}, mail),
        Call("digits/labels/canary:predict", {"instances": [scans[0].image]}, mail),
        Call("letters:predict", {"instances": [scans[0].image]}, mail),
        Call("risk:predict", {"instances": [{"age": 27.0}]}, cases_key),
        Call("risk:predict", {"instances": [cases()[0].inputs]}),  # without a key
        Call("risk:predict", {"instances": [cases()[0].inputs]}, "dbk_00000000_not-a-key"),
        Call("half_plus_two:predict", {"instances": ["two"]}, demo),
    ]
    # Spread evenly among the right ones, as mistakes are.
    step = len(made) // len(wrong)
    for place, call in enumerate(wrong):
        made.insert(place * (step + 1) + step // 2, call)
    return made


async def send(gateway: str, to_send: list[Call]) -> Counter[int]:
    """Send all, CONCURRENCY at a time; how many were answered with which status. Raises httpx.HTTPError."""
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(base_url=gateway, timeout=60.0, trust_env=False) as client:

        async def send_one(call: Call) -> None:
            async with gate:
                headers = {"Authorization": f"Bearer {call.key}"} if call.key else {}
                answer = await client.post(f"/v1/models/{call.path}", json=call.body, headers={**headers, **call.headers})
                statuses[answer.status_code] += 1

        async with asyncio.TaskGroup() as group:
            for call in to_send:
                group.create_task(send_one(call))
    return statuses


def ask(gateway: str, key: str, model: str, body: Mapping[str, Any]) -> Any:
    """One answer of a model, or None when it gives none. Raises httpx.HTTPError when the gateway can't be reached."""
    answer = httpx.post(
        f"{gateway}/v1/models/{model}:predict", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60.0, trust_env=False
    )
    return answer.json() if answer.status_code == 200 else None
