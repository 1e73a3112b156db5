"""Tags that follow from a model's signatures by rules that can be read, each with its reason. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalog.openapi.examples import takes_examples
from catalog.signatures import DEFAULT_SIGNATURE, Signature, TensorSpec

_IMAGE_NAMES = re.compile(r"image|picture|pixel|photo|digit", re.IGNORECASE)
_EMBEDDING_NAMES = re.compile(r"embed|vector", re.IGNORECASE)
_LABEL_NAMES = re.compile(r"class|label", re.IGNORECASE)
_SCORE_NAMES = re.compile(r"score|prob|logit|risk|confidence", re.IGNORECASE)
_STATE_NAMES = re.compile(r"state|hidden|carry|cache", re.IGNORECASE)
_TABULAR_WIDTH = 1000


@dataclass(frozen=True, slots=True)
class DerivedTag:
    key: str  # "modality-in:image"
    reason: str


def derive_tags(signatures: Mapping[str, Signature], *, class_names: Sequence[str] = (), framework: str = "tensorflow") -> list[DerivedTag]:
    """The tags that every reader of the signatures would give, sorted by key; the first reason found stands."""
    found: dict[str, str] = {}
    if framework:
        found[f"framework:{framework}"] = f"loaded by the {framework} loader"
    # The default signature is what the model is for; others are its parts, or other ways to write the same (tf.Example).
    told: Mapping[str, Signature] = {name: each for name, each in signatures.items() if not takes_examples(each)} or signatures
    if DEFAULT_SIGNATURE in told:
        told = {DEFAULT_SIGNATURE: told[DEFAULT_SIGNATURE]}
    for name, signature in sorted(told.items()):
        takes = dict(_inputs(signature))
        gives: dict[str, str] = {}
        for modality, reason in sorted(_outputs(signature, class_names), key=lambda found: "one score for each" not in found[1]):
            gives.setdefault(modality, reason)
        for modality, reason in takes.items():
            found.setdefault(f"modality-in:{modality}", f"{reason} ({name})")
        for modality, reason in gives.items():
            found.setdefault(f"modality-out:{modality}", f"{reason} ({name})")
        task = _task(signature, takes, gives, class_names)
        if task is not None:
            found.setdefault(f"task:{task[0]}", f"{task[1]} ({name})")
    return [DerivedTag(key, reason) for key, reason in sorted(found.items())]


def input_modality(alias: str, spec: TensorSpec) -> str:
    """What people would call one input."""
    shape = spec.shape
    if spec.kind == "string":
        return "text"
    if shape is None or len(shape) < 2:
        return "tensor"
    if _looks_like_pictures(alias, spec):
        return "image"
    if len(shape) == 2 and 1 < shape[1] <= _TABULAR_WIDTH:
        return "tabular"
    if len(shape) == 3 and shape[1] == -1:
        return "time-series"
    return "tensor"


def _looks_like_pictures(alias: str, spec: TensorSpec) -> bool:
    shape = spec.shape or ()
    if spec.kind not in {"float", "integer"}:
        return False
    if len(shape) == 4:
        return shape[3] in {1, 3, 4}
    if len(shape) == 3:
        return shape[1] == shape[2] and shape[1] >= 8
    return len(shape) == 2 and bool(_IMAGE_NAMES.search(alias)) and round(max(shape[1], 0) ** 0.5) ** 2 == shape[1] >= 64


def _inputs(signature: Signature) -> Iterable[tuple[str, str]]:
    if takes_examples(signature):
        yield "tabular", "takes tf.Example rows"
        return
    columns = [alias for alias, spec in signature.inputs.items() if _is_column(spec)]
    if len(columns) > 1:
        yield "tabular", f"takes the columns {', '.join(columns)}"
    for alias, spec in signature.inputs.items():
        if len(columns) > 1 and alias in columns:
            continue
        if _STATE_NAMES.search(alias):
            continue  # what a recurrent model hands itself
        modality = input_modality(alias, spec)
        yield modality, f"input {alias} is {spec.type_name} {spec.shape_text}"


def _outputs(signature: Signature, class_names: Sequence[str]) -> Iterable[tuple[str, str]]:
    for alias, spec in signature.outputs.items():
        if _STATE_NAMES.search(alias):
            continue
        words = f"output {alias} is {spec.type_name} {spec.shape_text}"
        width = spec.shape[-1] if spec.shape else -1
        if _EMBEDDING_NAMES.search(alias):
            yield "embedding", words
        elif class_names and width == len(class_names) and len(class_names) > 1:
            yield "label", f"{words}: one score for each of {len(class_names)} classes"
        elif _LABEL_NAMES.search(alias):
            yield "label", words
        elif _SCORE_NAMES.search(alias) or signature.method_name.endswith("/regress"):
            yield "score", words
        elif spec.kind == "string":
            yield "text", words
        elif _is_column(spec) and spec.kind in {"integer", "boolean"}:
            yield "label", words
        else:
            yield "tensor", words


def _is_column(spec: TensorSpec) -> bool:
    """One number a row."""
    return spec.kind in {"float", "integer", "boolean"} and spec.shape is not None and spec.shape in {(-1,), (-1, 1)}


def _task(signature: Signature, takes: Mapping[str, str], gives: Mapping[str, str], class_names: Sequence[str]) -> tuple[str, str] | None:
    """Only what the signature itself says; anything further is the owner's to say."""
    by_input = {"image": "image-classification", "text": "text-classification", "tabular": "tabular-classification"}
    kinds = [kind for kind in ("image", "text", "tabular") if kind in takes]
    if len(kinds) != 1:
        return None
    if signature.method_name.endswith("/regress") and kinds[0] == "tabular":
        return "tabular-regression", "its method is regress"
    if signature.method_name.endswith("/classify") or ("label" in gives and class_names):
        return by_input[kinds[0]], f"takes {kinds[0]} and gives a label"
    if "embedding" in gives:
        return ("image-feature-extraction" if kinds[0] == "image" else "feature-extraction"), "gives an embedding"
    return None
