import pytest

from serving.engine.options import All, Latest, Specific
from serving.policy import InvalidPolicy, format_policy, parse_label, parse_policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", Latest()),
        ("latest:3", Latest(3)),
        (" all ", All()),
        ("specific:4,1,4", Specific((1, 4))),
        ("specific: 7", Specific((7,))),
    ],
)
def test_a_policy_is_read_and_written_back(text: str, policy: object) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(format_policy(parse_policy(text))) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "newest",
        "latest:",
        "latest:0",
        "latest:-1",
        "all:",
        "specific:",
        "specific:1,",
        "specific:x",
        "latest:²",
        "specific:99999999999999999999",
    ],
)
def test_anything_else_is_refused_with_the_three_forms(text: str) -> None:
    with pytest.raises(InvalidPolicy, match="latest:N, all, specific:1,2"):
        parse_policy(text)


def test_a_label_names_a_version() -> None:
    assert parse_label(" stable = 2 ") == ("stable", 2)


@pytest.mark.parametrize("text", ["stable", "=2", "stable=", "stable=new", "a/b=1", "a:b=1", "stable=9223372036854775808"])
def test_a_broken_label_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy, match="NAME=VERSION"):
        parse_label(text)
