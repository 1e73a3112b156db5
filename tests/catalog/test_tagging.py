from catalog.openapi.tagging import derive_tags
from catalog.signatures import Signature

from .factories import DIGIT_NAMES, DIGITS, HALF_PLUS_TWO, signature, spec


def keys(signatures: dict[str, Signature], names: list[str] | None = None) -> set[str]:
    return {tag.key for tag in derive_tags(signatures, class_names=names or ())}


def test_pictures_with_class_names_are_image_classification() -> None:
    assert keys(DIGITS, DIGIT_NAMES) == {
        "framework:tensorflow",
        "modality-in:image",
        "modality-out:label",
        "task:image-classification",
    }


def test_a_number_in_and_out_claims_no_task() -> None:
    assert keys(HALF_PLUS_TWO) == {"framework:tensorflow", "modality-in:tensor", "modality-out:tensor"}


def test_text_with_classes_is_text_classification() -> None:
    signatures = {"serving_default": signature({"text": spec(-1, dtype="DT_STRING")}, {"scores": spec(-1, 2)})}
    assert "task:text-classification" in keys(signatures, ["against", "for"])


def test_examples_for_a_regression_are_tabular() -> None:
    signatures = {"regress": signature({"inputs": spec(-1, dtype="DT_STRING")}, {"outputs": spec(-1)}, "tensorflow/serving/regress")}
    assert keys(signatures) >= {"modality-in:tabular", "modality-out:score", "task:tabular-regression"}


def test_columns_are_a_table_row_and_examples_add_nothing_to_it() -> None:
    signatures = {
        "serving_default": signature({"age": spec(-1), "prio": spec(-1)}, {"score": spec(-1), "high": spec(-1, dtype="DT_INT64")}),
        "regress": signature({"inputs": spec(-1, dtype="DT_STRING")}, {"outputs": spec(-1)}, "tensorflow/serving/regress"),
    }
    assert keys(signatures, ["low", "high"]) == {
        "framework:tensorflow",
        "modality-in:tabular",
        "modality-out:label",
        "modality-out:score",
        "task:tabular-classification",
    }


def test_recurrent_state_is_no_input() -> None:
    step = signature({"token": spec(-1, dtype="DT_INT32"), "state": spec(-1, 64)}, {"logits": spec(-1, 96), "state": spec(-1, 64)})
    assert keys({"step": step}) == {"framework:tensorflow", "modality-in:tensor", "modality-out:score"}


def test_each_tag_says_why() -> None:
    reasons = {tag.key: tag.reason for tag in derive_tags(DIGITS, class_names=DIGIT_NAMES)}
    assert reasons["modality-in:image"] == "input image is float32 [n, 8, 8] (serving_default)"
    assert "one score for each of 10 classes" in reasons["modality-out:label"]
