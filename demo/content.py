"""The demo's models as the catalog shows them: what each is, how it was measured, what to ask it. No database in here."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = HERE / "models"
SAMPLES = HERE / "samples"
FEATURES = ("fin", "age", "wexp", "mar", "paro", "prio", "race")


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One deployment and its catalog entry. deployment: further arguments of `create_deployment`; card: of `update_card`."""

    name: str
    access: str
    summary: str
    tags: tuple[str, ...]
    deployment: dict[str, Any]
    card: dict[str, Any]
    examples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Digit:
    image: list[list[int]]
    label: int


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the risk model's test table."""

    inputs: dict[str, float] = field(default_factory=dict)
    arrest: bool = False


def digits() -> list[Digit]:
    return [Digit(row["image"], row["label"]) for row in json.loads((SAMPLES / "digits.json").read_text())]


def cases() -> list[Case]:
    with (SAMPLES / "risk.csv").open(newline="") as file:
        return [Case({name: float(row[name]) for name in FEATURES}, row["arrest"] == "1") for row in csv.DictReader(file)]


def prompts() -> list[str]:
    return [str(prompt) for prompt in json.loads((SAMPLES / "verse.json").read_text())["instances"]]


def numbers() -> list[float]:
    return [float(x) for x in json.loads((SAMPLES / "half_plus_two.json").read_text())["instances"]]


def demo_models() -> list[DemoModel]:
    scans = {digit.label: digit.image for digit in digits()}
    case = cases()[0]
    return [
        DemoModel(
            name="digits",
            access="key",
            summary="Reads a handwritten digit from an 8 × 8 scan.",
            tags=("task:optical-character-recognition", "domain:general", "licence:apache-2.0", "risk:reviewed-no-duty"),
            deployment={
                "policy": "latest:2",
                "labels": {"stable": 2, "baseline": 1},
                "answer_output": "scores",
                "answer_labels": [str(digit) for digit in range(10)],
            },
            card={
                "name": "Handwritten digits",
                "provider": "Daybook demo",
                "class_names": [str(digit) for digit in range(10)],
                "image_range": [16.0, 0.0],
                "licence": "Apache-2.0",
                "data_licence": "CC-BY-4.0",
                "intended_use": "Showing how a picture model is tried, called and audited.",
                "out_of_scope": "Reading real forms: the scans are 8 × 8 pixels, one centred digit each.",
                "limitations": "Written by 43 people in the 1990s. Not calibrated: a high score isn't a probability.",
                "training_data": "1,437 of the 1,797 scans of UCI's Optical Recognition of Handwritten Digits, as scikit-learn ships "
                "them; the other 360 are the test rows below.",
                "evaluation": [
                    {"dataset": "digits, 360 test rows (version 2)", "metric": "accuracy", "value": 0.981, "measured_by": "provider"},
                    {"dataset": "digits, 360 test rows (version 1)", "metric": "accuracy", "value": 0.928, "measured_by": "provider"},
                ],
                "provenance": "demo/train_digits.py in Daybook's repository, seed 20",
                "card": "Give it a square of 64 numbers, 0 for paper and 16 for full ink, and it says which digit that is.\n\n"
                "Version 2 is a convolutional net of two layers, version 1 a linear model that is kept to compare with. "
                "The label `stable` follows version 2, `baseline` version 1.",
            },
            examples=tuple(
                {"name": f"a scanned {label}", "request": {"instances": [scans[label]]}, "note": "From the test rows."}
                for label in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9)
            ),
        ),
        DemoModel(
            name="risk",
            access="key",
            summary="Scores the risk of a re-arrest within a year, from six facts about a release.",
            tags=(
                "task:tabular-classification",
                "modality-in:tabular",
                "domain:law-enforcement",
                "licence:apache-2.0",
                "risk:high-risk-possible",
            ),
            deployment={"answer_output": "high", "answer_labels": ["low", "high"]},
            card={
                "name": "Re-arrest risk",
                "provider": "Daybook demo",
                "licence": "Apache-2.0",
                "data_licence": "MIT (as part of lifelines)",
                "intended_use": "Showing what an auditor looks for: decisions by group, and what the record keeps of each.",
                "out_of_scope": "Any decision about a person. The data are 50 years old, 432 people, one state.",
                "limitations": "Area under the ROC curve 0.63: barely better than a coin. `race` is accepted and not used; the score "
                "differs between groups all the same, because other columns go along with it.",
                "training_data": "259 of the 432 rows of Rossi, Berk and Lenihan (1980), people released from Maryland state prisons "
                "and followed for one year.",
                "evaluation": [{"dataset": "Rossi, 173 test rows", "metric": "ROC AUC", "value": 0.628, "measured_by": "provider"}],
                "provenance": "demo/train_risk.py in Daybook's repository, seed 11",
                "card": "| input | meaning |\n| --- | --- |\n"
                "| `fin` | received financial aid after release (1) or not (0) |\n| `age` | years, at release |\n"
                "| `wexp` | worked full time before (1) |\n| `mar` | married (1) |\n| `paro` | released on parole (1) |\n"
                "| `prio` | convictions before |\n| `race` | 1 = Black, 0 = other, as coded in 1980; **not used by the score** |\n\n"
                "`high` is 1 from a score of 0.3 on.",
            },
            examples=({"name": "one case", "request": {"instances": [case.inputs]}, "note": "A row that the model wasn't trained on."},),
        ),
        DemoModel(
            name="verse",
            access="open",
            summary="Continues a line in the manner of five sonnets, character by character.",
            tags=("task:text-generation", "modality-out:text", "language:en", "domain:media", "licence:apache-2.0", "risk:transparency"),
            deployment={"answer_output": "continuation"},
            card={
                "name": "Verse",
                "provider": "Daybook demo",
                "licence": "Apache-2.0",
                "data_licence": "Public domain",
                "intended_use": "Showing a recurrent model: `init` reads a prompt, `step` writes one character from a state.",
                "out_of_scope": "Writing. It knows five sonnets by heart and nothing else.",
                "limitations": "Reads the last 48 characters; characters that the sonnets lack are read as unknown.",
                "training_data": "Five sonnets of Shakespeare's, 3,100 characters.",
                "provenance": "demo/train_verse.py in Daybook's repository, seed 7",
                "card": "A GRU layer of 128 units. Ask `serving_default` for 80 characters at once, or `init` and then `step` as often as "
                "you like: what `step` returns as `state` and `token` goes into the next one.",
            },
            examples=({"name": "a first line", "request": {"instances": ["Shall I compare"]}},),
        ),
        DemoModel(
            name="half_plus_two",
            access="open",
            summary="Answers 0.5 x + 2: TensorFlow Serving's classic, to check that everything is wired up.",
            tags=("task:other", "domain:general", "licence:apache-2.0", "risk:reviewed-no-duty"),
            deployment={"answer_output": "y"},
            card={
                "name": "Half plus two",
                "provider": "Daybook demo",
                "licence": "Apache-2.0",
                "intended_use": "First calls, smoke tests, benchmarks of everything but the model.",
                "provenance": "demo/train_half_plus_two.py in Daybook's repository, after TensorFlow Serving's test data",
                "card": "`y = 0.5 x + 2`, for as many numbers as you send. The signatures `classify_x_to_y`, `regress_x_to_y`, "
                "`regress_x_to_y2` and `regress_x2_to_y3` take `tf.Example` rows, as the original's do.",
            },
            examples=({"name": "three numbers", "request": {"instances": [1.0, 2.0, 5.0]}, "response": {"predictions": [2.5, 3.0, 4.5]}},),
        ),
    ]
