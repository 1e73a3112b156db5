"""Handwritten digits: a small convolutional net on scikit-learn's 8 × 8 scans (UCI "Optical Recognition of Handwritten Digits").

    python -m demo.train_digits

Writes version 1 (a linear model, kept so that versions can be compared) and version 2 (the net), and the test rows that neither
has seen to demo/samples/digits.json. The split is scikit-learn's with a fixed seed, 20 % for the test. Pixels are 0 (paper) to
16 (ink), as scanned; scaling is inside the graph, so callers send what they have.
"""

import json

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from demo.saved_models import SAMPLES, save, tf

SEED = 20
LABELS = [str(digit) for digit in range(10)]


class Digits(tf.Module):
    """image: float32 (n, 8, 8), 0..16 → scores: float32 (n, 10), adding up to 1, and class: int64 (n).

    weights: a Keras net's, in its order. Keras' own objects stay out of what is saved: plain variables load everywhere.
    """

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        self.weights = [tf.Variable(value, name=f"weight_{place}") for place, value in enumerate(weights)]

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        rows = image[..., None] / 16.0
        *convolutions, kernel, bias = self.weights
        if convolutions:
            kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3 = convolutions
            rows = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(rows, kernel_1, 1, "SAME") + bias_1), 2, 2, "VALID")
            rows = tf.nn.relu(tf.nn.conv2d(rows, kernel_2, 1, "SAME") + bias_2)
            rows = tf.nn.relu(tf.reshape(rows, [-1, kernel_3.shape[0]]) @ kernel_3 + bias_3)
        return tf.reshape(rows, [-1, kernel.shape[0]]) @ kernel + bias

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8], tf.float32, name="image")])
    def predict(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.nn.softmax(self.logits(image))
        return {"scores": scores, "class": tf.argmax(scores, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """tf.Example with the feature `image`: 64 floats, row by row."""
        parsed = tf.io.parse_example(inputs, {"image": tf.io.FixedLenFeature([8, 8], tf.float32)})
        scores = tf.nn.softmax(self.logits(parsed["image"]))
        names = tf.tile(tf.constant([LABELS]), [tf.shape(scores)[0], 1])
        return {"classes": names, "scores": scores}


def make_linear() -> tf.keras.Model:
    return tf.keras.Sequential([tf.keras.Input((8, 8, 1)), tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])


def make_net() -> tf.keras.Model:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(48, activation="relu"),
            layers.Dense(10),
        ]
    )


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    for version, make, epochs in ((1, make_linear, 30), (2, make_net, 40)):
        tf.keras.utils.set_random_seed(SEED)
        net = make()
        net.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        net.fit(train_x[..., None] / 16.0, train_y, batch_size=32, epochs=epochs, verbose=0)
        module = Digits(net.get_weights())
        answers = module.predict(tf.constant(test_x, tf.float32))["class"].numpy()
        print(f"digits@{version}: {np.mean(answers == test_y):.4f} of {len(test_y)} test rows right")
        save("digits", version, module, {"serving_default": ("predict", module.predict), "classify": ("classify", module.classify)})
    SAMPLES.mkdir(exist_ok=True)
    rows = [{"image": image.astype(int).tolist(), "label": int(label)} for image, label in zip(test_x, test_y, strict=True)]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (SAMPLES / "digits.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
