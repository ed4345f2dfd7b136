"""Sizes of a grid: a list, or every step of a range."""

from typing import Annotated, Any

from pydantic import BeforeValidator

__all__ = ["Sizes"]

_KEYS = ("from", "to", "step")


def _listed(value: Any) -> Any:
    """`{from, to, step}` as the list of its sizes, `to` among them; anything else as it is.

    Raises:
        ValueError: keys or values that give no such list.
    """
    if not isinstance(value, dict):
        return value
    if set(value) == set(_KEYS) and all(type(bound) is int for bound in value.values()):
        first, last, step = (value[key] for key in _KEYS)
        if step > 0 and last >= first and (last - first) % step == 0:
            return list(range(first, last + 1, step))
    raise ValueError(
        "give a range of sizes as {from: 1000, to: 50000, step: 1000}, in whole "
        "numbers, `to` being `from` and some steps more"
    )


Sizes = Annotated[list[int], BeforeValidator(_listed)]
