"""What one key of a sweep is drawn from: a range or choices, for all aligner kinds or for some."""

from operator import not_
from typing import Any, Generic, Self, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from langalign.config import AlignerKind, Section

__all__ = ["FloatDomain", "IntDomain"]

Number = TypeVar("Number", int, float)


class _Domain(Section, Generic[Number]):
    """A range {low, high}, both ends included, or {choices}; a bare list is choices."""

    kinds: list[AlignerKind] | None = Field(
        None, description="only for these aligner kinds; unset: all that have it"
    )
    low: Number | None = Field(None, description="smallest value")
    high: Number | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw the logarithm evenly")
    choices: list[Number] | None = Field(None, min_length=1, description="instead of a range")

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        if isinstance(given, int | float | str):
            raise ValueError("give a range {low, high} or a list of choices")
        return {"choices": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _is_drawable(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices have no low, high or log; give {low, high} or choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high; give both, or choices")
        if self.low > self.high:
            raise ValueError(f"low={self.low} is over high={self.high}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} has no logarithm; raise it or set log=false")
        return self

    @model_serializer(mode="wrap")
    def _as_in_studies(self, dump: SerializerFunctionWrapHandler) -> Any:
        """Choices without kinds as a bare list: a study on storage is told apart by this form."""
        if self.choices is not None and self.kinds is None:
            return self.choices
        unused = {"choices"} if self.choices is None else {"low", "high", "log"}
        return {name: value for name, value in dump(self).items() if name not in unused}


class IntDomain(_Domain[int]):
    """Whole numbers."""

    # Studies from before there was one are told apart without it.
    log: bool = Field(False, exclude_if=not_, description="draw the logarithm evenly")


class FloatDomain(_Domain[float]):
    """Numbers."""
