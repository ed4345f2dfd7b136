"""Fill a config model from a YAML file and `a.b=value` arguments, and list its keys.

An unknown key is an error that lists the valid ones; `describe_keys` is the table of `--help`.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from langalign.errors import ConfigError

__all__ = ["describe_keys", "load_config"]

Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model: type[Model], path: Path | None = None, overrides: Sequence[str] = ()
) -> Model:
    """Build a config from its defaults, a YAML file and `a.b=value` overrides, in that order.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value breaks its rule.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply_override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(model, error)) from None


def describe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every leaf key, in order of definition."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section:
            yield from describe_keys(section, f"{prefix}{name}.")
        else:
            kind = _type_name(field.annotation)
            yield f"{prefix}{name}", kind, _show(field.default), field.description or ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = _load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {path} is not YAML: {reason}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {path} must hold `key: value` lines, not a {type(loaded)}")
    return loaded


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"argument {override!r} is not of the form key=value, as in seed=1")
    try:
        value = _load_yaml(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{key}={_cut(text)} is not a YAML value; quote it") from error
    *sections, leaf = key.split(".")
    node = values
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {section!r} is a value, not a section with keys")
        node = child
    node[leaf] = value


class _ConfigLoader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `no` and 2024-01-01 are text, 1e-4 is a number."""


def _core_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    dropped = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"}
    return {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in dropped]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_ConfigLoader.yaml_implicit_resolvers = _core_resolvers()
_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _load_yaml(text: str) -> Any:
    loader = _ConfigLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _type_name(annotation: Any) -> str:
    choices = getattr(annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if isinstance(annotation, type) and not choices:
        return annotation.__name__
    origin = getattr(annotation, "__origin__", None)
    if origin is list:
        return f"list of {_type_name(choices[0])}" if choices else "list"
    kinds = [_type_name(choice) for choice in choices or () if choice is not type(None)]
    return " or ".join(kinds)


def _show(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, BaseModel):
        set_values = default.model_dump(exclude_defaults=True)
        return "{" + ", ".join(f"{key}: {_show(value)}" for key, value in set_values.items()) + "}"
    if isinstance(default, list):
        return "[" + ", ".join(str(item) for item in default) + "]"
    return str(default)


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = [name for name, *_ in describe_keys(model)]
        close = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {key!r}; {hint}valid keys: {', '.join(valid)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}={_cut(problem['input'])}: {message}" if key else message
