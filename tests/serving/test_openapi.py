"""Requests drawn from the OpenAPI document, and near it: no 5xx, and every answer is described."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from local_service import client_of, parts_of
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from langalign.storage import Storage
from serve.keys import KeyFile, new_key

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    return new_key(keys_file, "fuzzer")


@pytest.fixture(scope="module")
def document(models: Storage, keys_file: Path, key: str) -> Any:
    """Of a service that asks for keys."""
    app = client_of(parts_of(models, ["one", "pairs"], inputs=8), KeyFile(keys_file)).app
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(
    document: Any, key: str, mode: GenerationMode
) -> None:
    headers = {"Authorization": f"Bearer {key}"}

    @settings(max_examples=150, deadline=None)
    @given(case=document.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS)
        if mode == GenerationMode.POSITIVE and isinstance(case.body, dict):
            # No drawn language is one in service, and behind that check there is more to break.
            for language in ("xc", "xe"):
                case.body = {**case.body, "language": language, "model": None}
                case.call_and_validate(headers=headers, checks=CHECKS)

    ask()
