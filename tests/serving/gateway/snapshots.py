"""Snapshots for tests of the door: what services would publish for the models of `servables`."""

import hashlib
from collections.abc import Mapping
from typing import Any

from serving.engine.servable import TensorSpec as EngineSpec
from serving.snapshot import Access, Deployment, Key, Limits, Signature, Snapshot, TensorSpec, Version

from .servables import SERVABLES

SITE = "http://site.example"
SECRET = "try-it-secret"

KEYS = {
    "all": "dbk_00000001_all",
    "one": "dbk_00000002_only-half-plus-two",
    "metadata": "dbk_00000003_metadata",
    "expired": "dbk_00000004_expired",
    "limited": "dbk_00000005_limited",
    "single": "dbk_00000006_single",
    "subscriber": "dbk_00000007_subscriber",
    "foreign": "dbk_00000008_foreign",
}
RIGHTS: dict[str, dict[str, Any]] = {
    "all": {},
    "one": {"apis": ("half_plus_two",)},
    "metadata": {"scopes": ("metadata",)},
    "expired": {"expires_us": 1_000_000},
    "limited": {"limits": Limits(requests_per_second=5)},
    "single": {"limits": Limits(concurrency=1)},
    "subscriber": {"subscriptions": ("subscribed",)},
    "foreign": {"user": "grace"},
}


def make_key(name: str, **rights: Any) -> Key:
    text = KEYS[name]
    fields: dict[str, Any] = {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "prefix": text[:12],
        "application": f"app-{name}",
        "user": "ada",
        "scopes": ("predict", "metadata"),
        "apis": ("*",),
        "expires_us": None,
        "limits": Limits(),
    }
    return Key(**{**fields, **rights})


def _specs(specs: Mapping[str, EngineSpec]) -> dict[str, TensorSpec]:
    return {alias: TensorSpec(spec.name, spec.dtype, spec.shape) for alias, spec in specs.items()}


def make_version(prefix: str, name: str, number: int = 1, *, state: str = "AVAILABLE", **fields: Any) -> Version:
    signature = SERVABLES[name][0]
    defaults: dict[str, list[object]] = {alias: [] for alias in signature.defaults}
    return Version(
        version=number,
        state=state,
        artifact="ab" * 32,
        stream=f"{prefix}q:{name}@{number}",
        signatures={
            "serving_default": Signature(signature.method_name, _specs(signature.inputs), _specs(signature.outputs), defaults=defaults)
        },
        **fields,
    )


def make_deployment(prefix: str, name: str, **fields: Any) -> Deployment:
    given: dict[str, Any] = {
        "access": _access(name),
        "versions": (make_version(prefix, name),),
        "labels": {"stable": 1},
        "default_version": 1,
        "timeout_ms": 10_000,
        **fields,
    }
    return Deployment(name=name, **given)


def _access(name: str) -> Access:
    return "open" if name == "open_half" else "subscription" if name == "subscribed" else "key"


USUAL_OPEN_LIMITS = Limits(requests_per_second=1000, concurrency=100)


def make_snapshot(
    prefix: str,
    *,
    version: int = 1,
    without_keys: tuple[str, ...] = (),
    with_keys: tuple[Key, ...] = (),
    open_limits: Limits = USUAL_OPEN_LIMITS,
    **deployments: Deployment | None,
) -> Snapshot:
    """deployments: instead of the usual ones, None to leave one out."""
    usual: dict[str, Deployment | None] = {name: make_deployment(prefix, name) for name in SERVABLES}
    usual["digits"] = make_deployment(prefix, "digits", answer_labels=("zero", "one", "two"), answer_output="scores")
    keys = [make_key(name, **RIGHTS[name]) for name in KEYS if name not in without_keys]
    keys += with_keys
    return Snapshot(
        version=version,
        made_us=1,
        origin="daybook.test/log",
        deployments={name: found for name, found in (usual | deployments).items() if found is not None},
        keys={key.sha256: key for key in keys},
        try_it_secret=SECRET,
        site_origin=SITE,
        open_limits=open_limits,
    )
