"""JSON as results are written."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langalign.jsontext import dump_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(value=JSON)
def test_json_is_one_line_that_reads_back_as_it_was(value: Any) -> None:
    text = dump_json(value)
    assert "\n" not in text
    assert json.loads(text.encode()) == value


def test_json_is_the_same_whatever_the_order_of_keys() -> None:
    parts = {"b": 0.1, "a": [1, "한국어"], "c": None}
    texts = {dump_json(dict(order)) for order in itertools.permutations(parts.items())}
    assert texts == {'{"a": [1, "한국어"], "b": 0.1, "c": null}'}
    assert dump_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_a_number_it_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"results": [{"value": value}]})
