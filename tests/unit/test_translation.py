"""Translation: the API client against a stand-in service, resume, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, ChatServer, serving

from langalign.counterpart import Counterpart
from langalign.errors import TranslationError
from langalign.llm import ChatOptions, ChatTranslator
from langalign.storage import Storage
from langalign.translation import DictionaryTranslator, Translated, Usage, translate_all

TEXTS = [f"the film number {n} was good" for n in range(25)]
WANTED = [Counterpart().translate(text) for text in TEXTS]


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with serving() as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


def options(chat: ChatServer, **changed: Any) -> ChatOptions:
    base = ChatOptions(chat.url, "some-model", "Translate.", tail="Translation:", temperature=0.3)
    return replace(base, **changed)


def translated(
    chat: ChatServer, pauses: list[float], texts: Sequence[str] = TEXTS, **changed: Any
) -> list[Translated]:
    translator = ChatTranslator(options(chat, **changed), "the-key", sleep=pauses.append)
    try:
        return translator.translate(texts)
    finally:
        translator.close()


def test_every_text_comes_back_in_its_place_with_its_tokens(
    chat: ChatServer, pauses: list[float]
) -> None:
    found = translated(chat, pauses, concurrency=5)
    assert [each.text for each in found] == WANTED
    assert {each.usage for each in found} == {Usage(1, PROMPT_TOKENS, COMPLETION_TOKENS)}
    assert len(chat.requests) == len(TEXTS)
    assert chat.most_at_once <= 5
    assert pauses == []


def test_the_request_is_the_papers(chat: ChatServer, pauses: list[float]) -> None:
    translated(chat, pauses, ["a text"])
    (request,) = chat.requests
    assert request == {
        "model": "some-model",
        "temperature": 0.3,
        "messages": [
            {"role": "system", "content": "Translate."},
            {"role": "user", "content": "a text"},
            {"role": "system", "content": "Translation:"},
        ],
    }
    assert chat.keys == ["Bearer the-key"]


def test_without_a_key_none_is_sent(chat: ChatServer) -> None:
    translator = ChatTranslator(options(chat, tail=None), None)
    translator.translate(["a text"])
    translator.close()
    assert chat.keys == [None]
    assert len(chat.requests[0]["messages"]) == 2


def test_a_busy_service_is_asked_again_after_the_time_it_names(
    chat: ChatServer, pauses: list[float]
) -> None:
    chat.refusals = [(429, {"Retry-After": "9"}), (503, {}), (500, {})]
    (found,) = translated(chat, pauses, TEXTS[:1])
    assert found.text == WANTED[0]
    assert found.usage.calls == 4
    assert 9 <= pauses[0] <= 9 * 1.3
    # Without a time of its own: half a second, doubled with each call.
    assert 1.0 <= pauses[1] <= 1.3
    assert 2.0 <= pauses[2] <= 2.6


def test_a_service_that_stays_away_ends_the_job_with_the_remedy(
    chat: ChatServer, pauses: list[float]
) -> None:
    chat.refusals = [(503, {})] * 3
    with pytest.raises(TranslationError, match=r"in 3 calls \(HTTP 503.*translator.retries"):
        translated(chat, pauses, TEXTS[:1], retries=2)
    with pytest.raises(TranslationError, match="did not answer in 1 calls"):
        translated(ChatServer(url="http://127.0.0.1:9/v1"), pauses, TEXTS[:1], retries=0)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_that_will_not_pass_is_not_repeated(
    chat: ChatServer, pauses: list[float], status: int
) -> None:
    chat.refusals = [(status, {})]
    with pytest.raises(TranslationError, match=f"refused some-model: HTTP {status}") as caught:
        translated(chat, pauses, TEXTS[:1])
    assert len(chat.requests) == 1
    assert "the-key" not in str(caught.value)


@pytest.mark.parametrize(
    "answer", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": "x"}]}', b"[1]"]
)
def test_an_answer_that_is_none_names_what_to_check(
    chat: ChatServer, pauses: list[float], answer: bytes
) -> None:
    chat.answer = answer
    with pytest.raises(TranslationError, match=r"no chat completion .* translator.url"):
        translated(chat, pauses, TEXTS[:1])


def test_an_answer_without_text_is_refused(chat: ChatServer, pauses: list[float]) -> None:
    chat.answer = b'{"choices": [{"message": {"content": null}}]}'
    with pytest.raises(TranslationError, match="holds no text"):
        translated(chat, pauses, TEXTS[:1])


def test_all_threads_together_keep_to_the_rate(chat: ChatServer, pauses: list[float]) -> None:
    translated(chat, pauses, TEXTS[:6], concurrency=3, requests_per_minute=6)
    # The first goes at once, each other one 10 s after the one before it; the clock hardly moves.
    assert sorted(round(pause, 0) for pause in pauses) == [10, 20, 30, 40, 50]


def test_a_job_that_is_stopped_asks_for_nothing_twice(
    chat: ChatServer, pauses: list[float], tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    translator = ChatTranslator(options(chat), "the-key", sleep=pauses.append)
    chat.broken = {TEXTS[17]}
    with pytest.raises(TranslationError, match="not allowed"):
        translate_all(translator, TEXTS, storage, chunk_texts=5)
    chat.broken = set()
    chat.requests.clear()
    steps: list[tuple[int, int]] = []
    run = translate_all(
        translator,
        TEXTS,
        storage,
        chunk_texts=5,
        report=lambda done, total, usage: steps.append((done, total)),
    )
    # Chunks of 0-14 were there; of the broken chunk nothing had been kept.
    assert run.asked == 10 == len(chat.requests)
    assert run.texts == WANTED
    assert run.usage.calls == 25
    assert run.usage.prompt_tokens == 25 * PROMPT_TOKENS
    assert steps == [(5, 25), (10, 25), (15, 25), (20, 25), (25, 25)]
    again = translate_all(translator, TEXTS, storage, chunk_texts=5)
    assert (again.asked, again.texts, again.usage) == (0, WANTED, run.usage)
    translator.close()
    stored = [storage.read_bytes(item.key) for item in storage.list()]
    assert stored
    assert not any(b"the-key" in data for data in stored)


def test_another_prompt_or_model_is_asked_anew(
    chat: ChatServer, pauses: list[float], tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    for changed in ({}, {"prompt": "Other."}, {"model": "other"}, {"temperature": 0.0}):
        translator = ChatTranslator(options(chat, **changed), None, sleep=pauses.append)
        assert translate_all(translator, TEXTS[:3], storage).asked == 3
        translator.close()
    translator = ChatTranslator(options(chat, concurrency=1, retries=0), None)
    assert translate_all(translator, TEXTS[:3], storage).asked == 0
    translator.close()


def test_repeated_texts_are_translated_once(chat: ChatServer, tmp_path: Path) -> None:
    translator = ChatTranslator(options(chat), None)
    run = translate_all(translator, [*TEXTS[:2], TEXTS[0]], Storage(str(tmp_path)))
    translator.close()
    assert run.texts == [*WANTED[:2], WANTED[0]]
    assert len(chat.requests) == 2


def test_an_empty_translation_is_an_error(chat: ChatServer, tmp_path: Path) -> None:
    chat.answer = b'{"choices": [{"message": {"content": "  "}}]}'
    translator = ChatTranslator(options(chat), None)
    with pytest.raises(TranslationError, match="is empty"):
        translate_all(translator, TEXTS[:1], Storage(str(tmp_path)))
    translator.close()


def test_the_dictionary_is_exact_and_free(tmp_path: Path) -> None:
    run = translate_all(DictionaryTranslator(), TEXTS, Storage(str(tmp_path)))
    assert run.texts == WANTED
    assert run.usage.calls == 0
    assert run.usage.money(10, 30) == 0


def test_money_is_by_the_million_tokens() -> None:
    usage = Usage(3, 2_000_000, 500_000, 1.5) + Usage(1, 0, 500_000, 0.5)
    assert usage == Usage(4, 2_000_000, 1_000_000, 2.0)
    assert usage.money(10, 30) == pytest.approx(2 * 10 + 30)
