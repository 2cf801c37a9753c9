"""Expressions of constraints: a small subset, evaluated here, that cannot reach anything but the config."""

from __future__ import annotations

import pytest

from ablate.space.expressions import Expression, ExpressionError

CONFIG = {
    "schedule": {"name": "linear"},
    "objective": {"name": "esc", "velocity": {"name": "plugin", "prob": 0.5}},
    "train": {"steps": 1000, "batch_size": 128, "ema": [0.99, 0.999]},
    "eval": {"ema": None, "exact": True},
}


@pytest.mark.parametrize(
    "text",
    [
        "schedule == 'linear'",
        "schedule.name == 'linear'",
        "'linear' == schedule",
        "schedule != 'cosine01'",
        "schedule in ['linear', 've']",
        "schedule not in ('cosine01',)",
        "objective.velocity == 'plugin' and objective.velocity.prob > 0",
        "train.steps * train.batch_size >= 128000",
        "train.batch_size % 4 == 0",
        "train.steps / 4 == 250 and train.steps - 1 == 999 and train.steps + 1 == 1001",
        "0 < objective.velocity.prob < 1",
        "not (train.steps < 10 or train.batch_size < 2)",
        "-train.steps < 0",
        "eval.exact",
        "eval.exact == true",
        "eval.ema == null",
        "eval.ema == None",
        "0.99 in train.ema",
        "1 != true",
    ],
)
def test_a_true_expression_is_true(text: str) -> None:
    assert Expression(text)(CONFIG) is True
    assert Expression(f"not ({text})")(CONFIG) is False


@pytest.mark.parametrize("compared", ["== 0", "== null", "in [0, null]", "< 1", "> 1", "<= 1", "+ 1 == 1", "== 'x'"])
def test_a_field_that_the_choice_does_not_have_satisfies_nothing(compared: str) -> None:
    assert Expression(f"objective.velocity.group {compared}")(CONFIG) is False


def test_a_field_that_is_absent_differs_from_everything() -> None:
    assert Expression("objective.velocity.group != 0")(CONFIG) is True
    assert Expression("objective.velocity.group not in [0]")(CONFIG) is True
    assert Expression("objective.velocity.group")(CONFIG) is False


@pytest.mark.parametrize(
    "text",
    [
        "print(1)",
        "__import__('os').system('ls')",
        "schedule.__class__",
        "train.steps.__class__.__mro__",
        "_private == 1",
        "train['steps']",
        "[x for x in train.ema]",
        "lambda: 1",
        "1 if true else 2",
        "2 ** 1000",
        "train.steps // 2",
        "train.steps << 9",
        "~train.steps",
        "{1: 2}",
        "{1}",
        "f'{train}'",
        "(x := 1)",
        "(1).real",
        "'a'.join",
        "x is None",
        "b'x' == 1",
        "1j == 1",
        "...",
        "a = 1",
        "import os",
        "",
        "(",
        "not",
        "*a",
        "x" * 501,
        "+".join(["a"] * 200),
        "-" * 499 + "1",
    ],
)
def test_what_is_not_in_the_subset_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.steps / 0 == 1", "division by zero"),
        ("schedule < 3", "cannot be evaluated"),
        ("schedule + 1 == 2", "arithmetic needs numbers"),
        ("'a' * 3 == 'aaa'", "arithmetic needs numbers"),
        ("'lin' in schedule", "`in` needs a list"),
    ],
)
def test_what_cannot_be_computed_says_so_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        Expression(text)(CONFIG)


def test_names_come_with_their_columns() -> None:
    found = Expression("train.steps > 1 and not eval.ema == null").names()
    assert found == [(("train", "steps"), 1), (("eval", "ema"), 25)]


def test_an_odd_literal_prints_no_advice_of_pythons(recwarn: pytest.WarningsRecorder) -> None:
    Expression(r"schedule == 'a\d'")
    assert not recwarn.list
