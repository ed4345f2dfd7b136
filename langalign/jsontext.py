"""JSON as every file of a result is written: the same value is the same text.

Not in `langalign.report`, which draws: matplotlib takes long to import.
"""

import json
from typing import Any

__all__ = ["dump_json"]


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """JSON with sorted keys, UTF-8 as it is and floats in full; one line unless `indent` is given.

    Raises:
        ValueError: a float is NaN or infinite, which JSON cannot say.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=indent)
