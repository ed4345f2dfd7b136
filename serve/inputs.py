"""The inputs of a request as columns of texts, held to the limits."""

from collections.abc import Sequence

from langalign.errors import DataError
from serve.problems import ProblemError
from serve.schemas import PairInput
from serve.settings import Limits

__all__ = ["check_limits", "columns"]


def check_limits(inputs: Sequence[str | PairInput], limits: Limits) -> None:
    """Refuse more inputs, or longer ones, than a request may hold.

    Raises:
        ProblemError: 422, naming the limit.
    """
    if len(inputs) > limits.inputs:
        raise ProblemError(
            422,
            f"inputs: {len(inputs)} inputs, and a request may hold {limits.inputs}; "
            "send several requests",
        )
    for place, entry in enumerate(inputs):
        texts = (entry,) if isinstance(entry, str) else (entry.premise, entry.hypothesis)
        longest = max(map(len, texts))
        if longest > limits.characters:
            raise ProblemError(
                422,
                f"inputs.{place}: {longest} characters, and a text may have {limits.characters}; "
                "shorten or split it",
            )


def columns(
    inputs: Sequence[str | PairInput], *, is_pair_task: bool
) -> tuple[list[str], list[str] | None]:
    """Texts, and the second texts where the task is on pairs.

    Raises:
        DataError: an input of the other form, naming its place and not its text.
    """
    if is_pair_task:
        pairs = [entry for entry in inputs if isinstance(entry, PairInput)]
        if len(pairs) == len(inputs):
            return [pair.premise for pair in pairs], [pair.hypothesis for pair in pairs]
    else:
        texts = [entry for entry in inputs if isinstance(entry, str)]
        if len(texts) == len(inputs):
            return texts, None
    wrong = next(
        place for place, entry in enumerate(inputs) if isinstance(entry, str) == is_pair_task
    )
    wanted = "an object of premise and hypothesis" if is_pair_task else "a text"
    raise DataError(f"inputs.{wrong}: this model takes {wanted}")
