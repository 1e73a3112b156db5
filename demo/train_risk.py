"""Re-arrest within a year: a logistic model on the Rossi data, with a sensitive attribute that the score doesn't use.

    python -m demo.train_risk [rossi.csv]

432 people released from Maryland state prisons in the 1970s, followed for a year (Rossi, Berk and Lenihan 1980). Without an argument
the table is taken from the wheel of `lifelines` 0.30.3 (MIT), downloaded for that with pip.

The input `race` is accepted and not used: it travels with the request, so that the daybook can show how decisions differ between
groups. That such a model isn't fair merely because it doesn't read a column is what the demo is there to show.
"""

import csv
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from demo.saved_models import SAMPLES, save, tf

FEATURES = ("fin", "age", "wexp", "mar", "paro", "prio")
INPUTS = (*FEATURES, "race")
SEED = 11
THRESHOLD = 0.3  # where the demo calls a case high: the share of people arrested again is 26 %
LABELS = ["low", "high"]


def read_table(path: Path | None) -> list[dict[str, int]]:
    if path is not None:
        text = path.read_text()
    else:
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, "lifelines==0.30.3"]
            subprocess.run(command, check=True)
            with zipfile.ZipFile(next(Path(directory).glob("*.whl"))) as wheel:
                text = wheel.read("lifelines/datasets/rossi.csv").decode()
    return [{key: int(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


class Risk(tf.Module):
    """Each input float32 (n) → score: float32 (n), the probability of a re-arrest, and high: int64 (n), score >= THRESHOLD."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray, bias: float) -> None:
        super().__init__()
        self.mean = tf.Variable(mean.astype(np.float32), name="mean")
        self.scale = tf.Variable(scale.astype(np.float32), name="scale")
        self.weights = tf.Variable(weights.astype(np.float32), name="weights")
        self.bias = tf.Variable(np.float32(bias), name="bias")

    def score(self, columns: dict[str, tf.Tensor]) -> tf.Tensor:
        rows = tf.stack([columns[name] for name in FEATURES], axis=1)
        return tf.sigmoid(tf.linalg.matvec((rows - self.mean) / self.scale, self.weights) + self.bias)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in INPUTS])
    def predict(
        self, fin: tf.Tensor, age: tf.Tensor, wexp: tf.Tensor, mar: tf.Tensor, paro: tf.Tensor, prio: tf.Tensor, race: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        score = self.score({"fin": fin, "age": age, "wexp": wexp, "mar": mar, "paro": paro, "prio": prio})
        return {"score": score, "high": tf.cast(score >= THRESHOLD, tf.int64)}

    def score_examples(self, inputs: tf.Tensor) -> tf.Tensor:
        default = tf.zeros([])
        features = {name: tf.io.FixedLenFeature([], tf.float32, None if name in FEATURES else default) for name in INPUTS}
        return self.score(tf.io.parse_example(inputs, features))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": self.score_examples(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        score = self.score_examples(inputs)
        names = tf.tile(tf.constant([LABELS]), [tf.shape(score)[0], 1])
        return {"classes": names, "scores": tf.stack([1.0 - score, score], axis=1)}


def main() -> None:
    table = read_table(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    x = np.array([[row[name] for name in FEATURES] for row in table], dtype=np.float64)
    y = np.array([row["arrest"] for row in table])
    train, test = train_test_split(np.arange(len(table)), test_size=0.4, random_state=SEED, stratify=y)
    mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
    fitted = LogisticRegression(C=0.5).fit((x[train] - mean) / scale, y[train])
    module = Risk(mean, scale, fitted.coef_[0], fitted.intercept_[0])
    columns = {name: tf.constant([table[i][name] for i in test], tf.float32) for name in INPUTS}
    scores = module.predict(**columns)["score"].numpy()
    print(f"risk@1: area under the ROC curve {roc_auc_score(y[test], scores):.3f} on {len(test)} test rows")
    for race in (0, 1):
        group = np.array([table[i]["race"] == race for i in test])
        print(
            f"  race={race}: {np.mean(scores[group] >= THRESHOLD):.2f} called high, {np.mean(y[test][group]):.2f} arrested, n={group.sum()}"
        )
    signatures = {
        "serving_default": ("predict", module.predict),
        "regress": ("regress", module.regress),
        "classify": ("classify", module.classify),
    }
    save("risk", 1, module, signatures)
    rows = [{**{name: table[i][name] for name in INPUTS}, "arrest": table[i]["arrest"]} for i in test]
    SAMPLES.mkdir(exist_ok=True)
    with (SAMPLES / "risk.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*INPUTS, "arrest"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (SAMPLES / "risk.json").write_text(json.dumps({"threshold": THRESHOLD, "labels": LABELS}) + "\n")


if __name__ == "__main__":
    main()
