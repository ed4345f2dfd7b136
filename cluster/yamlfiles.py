"""Read YAML as the checks need it: every document of a file, and no key given twice."""

from pathlib import Path
from typing import Any

import yaml

from langalign.errors import ConfigError

__all__ = ["read_documents"]


def read_documents(path: Path) -> list[Any]:
    """The documents of a YAML file, empty ones left out.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or gives a key twice in one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            _refuse_twins(node)
        documents = yaml.safe_load_all(text)
        return [_unshared(document) for document in documents if document is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{path}: {line}{error.problem}; correct the YAML there") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not YAML ({reason}); write it as UTF-8 text") from error


def _unshared(value: Any) -> Any:
    """A copy in which an anchor and its aliases are no longer one object."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value


def _refuse_twins(node: yaml.Node | None) -> None:
    """YAML lets the last of two equal keys win; here that is an error."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no file of ours has such keys, and loading it says so
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value} stands twice in one mapping",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
            _refuse_twins(value)
