"""TensorFlow Serving's half_plus_two, made anew: y = 0.5 x + 2.

    python -m demo.train_half_plus_two

A TF1-style graph, as the original is: such models are what many people still serve, and `tf.saved_model.load` refuses some of them.
The signatures are the original's (its second pair, x2 → y3, included). `x` is declared with rows of one number each as `[-1]`,
because that's what the well-known request `{"instances": [1.0, 2.0, 5.0]}` sends; the original declares `[-1, 1]`.
Source: TensorFlow Serving, servables/tensorflow/testdata/saved_model_half_plus_two (Apache-2.0).
"""

import json
import shutil

from demo.saved_models import METHODS, MODELS, SAMPLES
from demo.saved_models import tf as tensorflow

tf = tensorflow.compat.v1
VERSION = 1


def main() -> None:
    directory = MODELS / "half_plus_two" / str(VERSION)
    shutil.rmtree(directory, ignore_errors=True)
    with tf.Graph().as_default(), tf.Session() as session:
        a = tf.get_variable("a", initializer=0.5, use_resource=True)
        b = tf.get_variable("b", initializer=2.0, use_resource=True)
        c = tf.get_variable("c", initializer=3.0, use_resource=True)
        x = tf.placeholder(tf.float32, [None], name="x")
        y = tf.add(tf.multiply(a, x), b, name="y")
        serialized = tf.placeholder(tf.string, [None], name="tf_example")
        features = {name: tf.FixedLenFeature([1], tf.float32, default_value=[0.0]) for name in ("x", "x2")}
        parsed = tf.io.parse_example(serialized, features)
        example_y = tf.add(tf.multiply(a, parsed["x"]), b, name="example_y")
        example_y2 = tf.add(tf.multiply(a, parsed["x"]), c, name="example_y2")
        example_y3 = tf.add(tf.multiply(a, parsed["x2"]), c, name="example_y3")
        session.run(tf.global_variables_initializer())

        def signature(method: str, inputs: dict[str, object], outputs: dict[str, object]) -> object:
            return tf.saved_model.signature_def_utils.build_signature_def(
                inputs={key: tf.saved_model.utils.build_tensor_info(tensor) for key, tensor in inputs.items()},
                outputs={key: tf.saved_model.utils.build_tensor_info(tensor) for key, tensor in outputs.items()},
                method_name=METHODS[method],
            )

        builder = tf.saved_model.builder.SavedModelBuilder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.tag_constants.SERVING],
            signature_def_map={
                "serving_default": signature("predict", {"x": x}, {"y": y}),
                "classify_x_to_y": signature("classify", {"inputs": serialized}, {"scores": example_y}),
                "regress_x_to_y": signature("regress", {"inputs": serialized}, {"outputs": example_y}),
                "regress_x_to_y2": signature("regress", {"inputs": serialized}, {"outputs": example_y2}),
                "regress_x2_to_y3": signature("regress", {"inputs": serialized}, {"outputs": example_y3}),
            },
        )
        builder.save()
    (directory / "fingerprint.pb").unlink(missing_ok=True)
    rows = [1.0, 2.0, 5.0, -4.0, 0.0, 0.25, 1e6, -1.5]
    SAMPLES.mkdir(exist_ok=True)
    (SAMPLES / "half_plus_two.json").write_text(json.dumps({"instances": rows, "expected": [0.5 * x + 2 for x in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
