"""A recurrent net that continues a line in the manner of the sonnets it read, one character at a time.

    python -m demo.train_verse

Five sonnets of Shakespeare's (demo/data/sonnets.txt, public domain) and one GRU layer. Three signatures:

    init             text (n) strings → state (n, UNITS), token (n): read a prompt
    step             state, token → state, token, scores: the next character; sequences of any length may share a batch of steps
    serving_default  text (n) → continuation (n) strings: `init`, then 80 times `step`, the likeliest character each time
"""

import json
from pathlib import Path

import numpy as np

from demo.saved_models import SAMPLES, save, tf

SEED = 7
UNITS = 128
WINDOW = 48  # characters of a prompt that are read
LENGTH = 80  # characters that serving_default writes
UNKNOWN = 0


def read_text() -> str:
    return (Path(__file__).with_name("data") / "sonnets.txt").read_text()


class Verse(tf.Module):
    """One GRU layer written out, so that `step` is a plain function of the state. Equations: Keras' GRU, reset_after=True."""

    def __init__(self, alphabet: str, embedding: np.ndarray, gru: list[np.ndarray], dense: list[np.ndarray]) -> None:
        super().__init__()
        codes = np.zeros(256, np.int64)
        for index, character in enumerate(alphabet, start=1):
            codes[ord(character)] = index
        self.codes = tf.constant(codes)
        self.characters = tf.constant(["?", *alphabet])
        self.embedding = tf.Variable(embedding, name="embedding")
        self.kernel, self.recurrent, self.gates_bias = (tf.Variable(value, name=name) for value, name in zip(gru, "wub", strict=True))
        self.dense, self.dense_bias = (tf.Variable(value, name=name) for value, name in zip(dense, ("dense", "bias"), strict=True))

    def cell(self, token: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        given = tf.matmul(tf.gather(self.embedding, token), self.kernel) + self.gates_bias[0]
        kept = tf.matmul(state, self.recurrent) + self.gates_bias[1]
        given_z, given_r, given_h = tf.split(given, 3, axis=1)
        kept_z, kept_r, kept_h = tf.split(kept, 3, axis=1)
        update, reset = tf.sigmoid(given_z + kept_z), tf.sigmoid(given_r + kept_r)
        return update * state + (1.0 - update) * tf.tanh(given_h + reset * kept_h)

    def logits(self, state: tf.Tensor) -> tf.Tensor:
        scores = tf.matmul(state, self.dense) + self.dense_bias
        return scores - tf.one_hot(UNKNOWN, scores.shape[1], on_value=1e9)  # never write a character that was never read

    @tf.function
    def read(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The state after all of the prompt but its last character, and that character. An empty prompt counts as a new line."""
        text = tf.where(tf.strings.length(text) > 0, text, "\n")
        length = tf.strings.length(text)
        last = tf.strings.substr(text, tf.maximum(length - WINDOW, 0), tf.minimum(length, WINDOW))
        length = tf.minimum(length, WINDOW)
        tokens = tf.gather(self.codes, tf.cast(tf.io.decode_raw(last, tf.uint8, fixed_length=WINDOW), tf.int32))
        state = tf.zeros([tf.shape(tokens)[0], UNITS])
        for place in tf.range(WINDOW - 1):
            tf.autograph.experimental.set_loop_options(shape_invariants=[(state, tf.TensorShape([None, UNITS]))])
            state = tf.where((place < length - 1)[:, None], self.cell(tokens[:, place], state), state)
        return state, tf.gather(tokens, length - 1, batch_dims=1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def init(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        state, token = self.read(text)
        return {"state": state, "token": token}

    @tf.function(input_signature=[tf.TensorSpec([None, UNITS], tf.float32, name="state"), tf.TensorSpec([None], tf.int64, name="token")])
    def step(self, state: tf.Tensor, token: tf.Tensor) -> dict[str, tf.Tensor]:
        state = self.cell(token, state)
        logits = self.logits(state)
        token = tf.argmax(logits, axis=1)
        return {"state": state, "token": token, "scores": tf.nn.softmax(logits), "text": tf.gather(self.characters, token)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def continue_text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        state, token = self.read(text)
        written = tf.TensorArray(tf.int64, size=LENGTH, element_shape=[None])
        for place in tf.range(LENGTH):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(state, tf.TensorShape([None, UNITS])), (token, tf.TensorShape([None]))]
            )
            state = self.cell(token, state)
            token = tf.argmax(self.logits(state), axis=1)
            written = written.write(place, token)
        return {"continuation": tf.strings.reduce_join(tf.gather(self.characters, tf.transpose(written.stack())), axis=1)}


def train(tokens: np.ndarray, size: int) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(SEED)
    layers = tf.keras.layers
    net = tf.keras.Sequential(
        [
            tf.keras.Input((None,), dtype="int64"),
            layers.Embedding(size, 32),
            layers.GRU(UNITS, return_sequences=True),
            layers.Dense(size),
        ]
    )
    net.compile(tf.keras.optimizers.Adam(4e-3), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    starts = np.arange(0, len(tokens) - WINDOW - 1, 3)
    x = np.stack([tokens[start : start + WINDOW] for start in starts])
    y = np.stack([tokens[start + 1 : start + WINDOW + 1] for start in starts])
    history = net.fit(x, y, batch_size=64, epochs=45, verbose=0)
    print(f"verse: {history.history['loss'][-1]:.3f} nats a character, {net.count_params()} weights")
    return net


def main() -> None:
    text = read_text()
    alphabet = "".join(sorted(set(text)))
    tokens = np.array([alphabet.index(character) + 1 for character in text], np.int64)
    net = train(tokens, len(alphabet) + 1)
    embedding, gru, dense = (layer.get_weights() for layer in net.layers)
    module = Verse(alphabet, embedding[0], gru, dense)
    prompts = [
        "Shall I compare",
        "When, in disgrace",
        "My mistress' eyes",
        "Love is not",
        "That time of year",
        "If snow be",
        "O no! it",
        "And summer's",
    ]
    written = [line.decode() for line in module.continue_text(tf.constant(prompts))["continuation"].numpy()]
    print(*(f"{prompt}|{line!r}" for prompt, line in zip(prompts, written, strict=True)), sep="\n")
    save(
        "verse",
        1,
        module,
        {
            "serving_default": ("predict", module.continue_text),
            "init": ("predict", module.init),
            "step": ("predict", module.step),
        },
    )
    SAMPLES.mkdir(exist_ok=True)
    (SAMPLES / "verse.json").write_text(json.dumps({"instances": prompts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
