"""Which model a request is for."""

from collections.abc import Mapping

from serve.problems import ProblemError

__all__ = ["choose_model"]


def choose_model(name: str | None, language: str, languages: Mapping[str, tuple[str, str]]) -> str:
    """The model named, or the one for the language: made for it, else the only one that reads it.

    `languages` maps the models in service to their source and target language.

    Raises:
        ProblemError: 404 for an unknown model, 422 for an unknown or ambiguous language.
    """
    if name is not None:
        if name not in languages:
            raise ProblemError(404, f"model: no such model; choose from {_listed(languages)}")
        if language not in languages[name]:
            known = " and ".join(languages[name])
            raise ProblemError(422, f"language: model {name} knows {known} only")
        return name
    made_for = [model for model, (_, target) in languages.items() if target == language]
    able = made_for or [model for model, known in languages.items() if language in known]
    if not able:
        known = _listed({code: () for pair in languages.values() for code in pair})
        raise ProblemError(422, f"language: no model knows it; choose from {known}")
    if len(able) > 1:
        raise ProblemError(
            422, f"model: several know this language; choose from {', '.join(sorted(able))}"
        )
    return able[0]


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
