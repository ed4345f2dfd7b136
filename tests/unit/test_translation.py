"""Translation: the API client against a stand-in service, resume, and what it costs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, ChatServer, serving

from langalign import translation
from langalign.counterpart import Counterpart
from langalign.errors import ConfigError, TranslationError
from langalign.llm import ChatOptions, ChatTranslator
from langalign.storage import Storage
from langalign.translation import (
    DictionaryTranslator,
    Keep,
    Translated,
    TranslationRun,
    Usage,
    translate_all,
)

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
    """What came of each text, in their order."""
    translator = ChatTranslator(options(chat, **changed), "the-key", sleep=pauses.append)
    found: dict[str, Translated] = {}
    try:
        translator.translate(texts, found.update)
    finally:
        translator.close()
    return [found[text] for text in texts]


def kept(
    chat: ChatServer,
    storage: Storage,
    *,
    fails: Callable[[int], None] = lambda done: None,
    **changed: Any,
) -> TranslationRun:
    """`translate_all` of all texts; `fails` is told how many are done, and may end it."""
    translator = ChatTranslator(options(chat, concurrency=3), "the-key", sleep=lambda pause: None)

    try:
        return translate_all(
            translator, TEXTS, storage, report=lambda done, *_: fails(done), **changed
        )
    finally:
        translator.close()


def test_every_text_comes_back_with_its_tokens(chat: ChatServer, pauses: list[float]) -> None:
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
    for key in (None, "", " \r\n"):
        translator = ChatTranslator(options(chat, tail=None), key)
        translator.translate(["a text"], lambda answers: None)
        translator.close()
    assert chat.keys == [None] * 3
    assert len(chat.requests[0]["messages"]) == 2


def test_white_space_around_the_key_is_no_part_of_it(chat: ChatServer) -> None:
    translator = ChatTranslator(options(chat), " the-key\r\n")
    translator.translate(["a text"], lambda answers: None)
    translator.close()
    assert chat.keys == ["Bearer the-key"]


@pytest.mark.parametrize("key", ["the-key\rx", "the-key\nx", "the-k\u00e9y", "the-key\0"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    chat: ChatServer, key: str
) -> None:
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY") as caught:
        ChatTranslator(options(chat), key)
    assert "the-k" not in str(caught.value)


def test_a_request_that_cannot_be_sent_is_not_repeated_and_shows_no_header(
    chat: ChatServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise httpx2.LocalProtocolError("Illegal header value b'Bearer the-key'")

    monkeypatch.setattr(httpx2.Client, "post", refuse)
    with pytest.raises(TranslationError, match=r"no request to .* can be sent") as caught:
        translated(chat, pauses, TEXTS[:1])
    assert "the-key" not in str(caught.value)
    assert pauses == []


def test_what_a_service_or_a_library_says_is_shown_without_the_key(
    chat: ChatServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.refusals = [(403, {}), (503, {}), (400, {})]
    for wanted in ("refused some-model", "did not answer"):
        with pytest.raises(TranslationError, match=wanted) as caught:
            translated(chat, pauses, TEXTS[:1], retries=0)
        assert "Bearer ***" in str(caught.value)
        assert "the-key" not in str(caught.value)
    (found,) = translated(chat, pauses, TEXTS[:1])
    assert "Bearer ***" in found.refusal

    def lose(*arguments: Any, **options: Any) -> None:
        raise httpx2.ConnectError("lost with Bearer the-key")

    monkeypatch.setattr(httpx2.Client, "post", lose)
    with pytest.raises(TranslationError, match=r"lost with Bearer \*\*\*"):
        translated(chat, pauses, TEXTS[:1], retries=0)


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


def test_a_pause_that_is_asked_for_is_kept_to_however_long_or_written(
    chat: ChatServer, pauses: list[float]
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    for asked in ("600", date, "Sat, 01 Jan 2000 00:00:00 GMT", "soon"):
        chat.refusals.append((429, {"Retry-After": asked}))
    translated(chat, pauses, TEXTS[:1])
    assert 600 <= pauses[0] <= 601
    assert 7000 <= pauses[1] <= 7201
    assert 0 <= pauses[2] <= 1, "a date that has passed"
    assert 4 <= pauses[3] <= 5.2, "no time at all: our own back-off"


def test_our_own_back_off_ends_at_a_minute(chat: ChatServer, pauses: list[float]) -> None:
    chat.refusals = [(503, {})] * 10
    translated(chat, pauses, TEXTS[:1], retries=10)
    assert 60 <= pauses[-1] <= 78


def test_a_service_that_stays_away_ends_the_job_with_the_remedy(
    chat: ChatServer, pauses: list[float]
) -> None:
    chat.refusals = [(503, {})] * 3
    with pytest.raises(TranslationError, match=r"in 3 calls \(HTTP 503.*translator.retries"):
        translated(chat, pauses, TEXTS[:1], retries=2)
    with pytest.raises(TranslationError, match="did not answer in 1 calls"):
        translated(ChatServer(url="http://127.0.0.1:9/v1"), pauses, TEXTS[:1], retries=0)


@pytest.mark.parametrize("status", [401, 403, 404])
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


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ('"message": {"content": null}', "holds no text"),
        ('"message": {"content": " "}, "finish_reason": "stop"', "holds no text"),
        ('"message": {"content": "half a"}, "finish_reason": "length"', "finish_reason=length"),
        ('"message": {"content": null}, "finish_reason": "content_filter"', "content_filter"),
    ],
)
def test_an_answer_without_a_whole_translation_is_a_refusal_that_was_paid(
    chat: ChatServer, pauses: list[float], choice: str, reason: str
) -> None:
    usage = '{"prompt_tokens": 5, "completion_tokens": null}'
    chat.answer = f'{{"choices": [{{{choice}}}], "usage": {usage}}}'.encode()
    (found,) = translated(chat, pauses, TEXTS[:1])
    assert found.text is None
    assert reason in found.refusal
    assert found.usage == Usage(1, 5, 0)
    assert found.is_paid


def test_all_threads_together_keep_to_the_rate(chat: ChatServer, pauses: list[float]) -> None:
    translated(chat, pauses, TEXTS[:6], concurrency=3, requests_per_minute=6)
    # The first goes at once, each other one 10 s after the one before it; the clock hardly moves.
    assert sorted(round(pause, 0) for pause in pauses) == [10, 20, 30, 40, 50]


def interrupt(done: int) -> None:
    if done >= 7:
        raise KeyboardInterrupt


def test_a_job_that_is_interrupted_keeps_all_that_it_asked_for(
    chat: ChatServer, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        kept(chat, storage, fails=interrupt)
    asked = len(chat.requests)
    assert 7 <= asked < len(TEXTS), "what had not begun was dropped"
    run = kept(chat, storage)
    # Calls that were under way had been waited for.
    assert run.asked == len(TEXTS) - asked
    assert len(chat.requests) == len(TEXTS)
    assert run.texts == WANTED
    assert (run.usage.calls, run.usage.prompt_tokens) == (25, 25 * PROMPT_TOKENS)
    again = kept(chat, storage)
    assert (again.asked, again.texts) == (0, WANTED)
    assert replace(again.usage, seconds=0) == replace(run.usage, seconds=0)
    assert again.usage.seconds == pytest.approx(run.usage.seconds, rel=1e-3, abs=1e-4)
    stored = [storage.read_bytes(item.key) for item in storage.list()]
    assert stored
    assert not any(b"the-key" in data for data in stored)


def test_a_service_that_ends_the_job_leaves_what_was_translated(
    chat: ChatServer, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    chat.broken = {TEXTS[17]: 403}
    with pytest.raises(TranslationError, match="not allowed"):
        kept(chat, storage)
    asked = len(chat.requests)
    chat.broken = {}
    assert kept(chat, storage).asked == len(TEXTS) - (asked - 1)


def test_a_pause_ends_where_the_job_does(chat: ChatServer, tmp_path: Path) -> None:
    chat.refusals = [(429, {"Retry-After": "86400"})]
    translator = ChatTranslator(options(chat, concurrency=2), None)

    def report(done: int, total: int, usage: Usage) -> None:
        if done:
            raise KeyboardInterrupt

    # With the pause waited for, this test would last a day.
    with pytest.raises(KeyboardInterrupt):
        translate_all(translator, TEXTS, Storage(str(tmp_path)), report=report)
    translator.close()


def test_answers_are_on_storage_before_the_next_ones_come(
    chat: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation, "WRITE_EVERY_S", 0.0)
    storage = Storage(str(tmp_path))
    stored: list[tuple[int, int]] = []

    def count(done: int) -> None:
        keys = [item.key for item in storage.list()]
        stored.append((done, sum(len(storage.read_json(key)) for key in keys)))

    kept(chat, storage, fails=count, part_texts=10)
    assert all(done == found for done, found in stored)
    assert stored[-1] == (25, 25)
    assert 2 <= len(storage.list()) <= 4, "parts of ten texts or a few more"


def test_more_texts_cost_only_what_is_new(chat: ChatServer, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    translator = ChatTranslator(options(chat), None)
    translate_all(translator, TEXTS[3:20], storage)
    chat.requests.clear()
    run = translate_all(translator, TEXTS, storage)
    translator.close()
    assert run.asked == len(chat.requests) == 8
    assert run.texts == WANTED
    assert run.usage.calls == 25
    few = translate_all(translator, TEXTS[:5], storage)
    assert (few.asked, few.usage.calls) == (0, 5), "of these texts alone"


def test_refused_texts_are_left_out_with_their_reasons(chat: ChatServer, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    chat.broken, chat.cut = {TEXTS[2]: 400}, {TEXTS[9]}
    run = kept(chat, storage, refused_share=0.1)
    assert [place for place, text in enumerate(run.texts) if text is None] == [2, 9]
    assert set(run.refused) == {TEXTS[2], TEXTS[9]}
    assert "HTTP 400" in run.refused[TEXTS[2]]
    assert "finish_reason=length" in run.refused[TEXTS[9]]
    assert run.usage.calls == 25
    assert run.usage.completion_tokens == 24 * COMPLETION_TOKENS, "a cut answer is paid for"
    chat.broken, chat.cut = {}, set()
    again = kept(chat, storage, refused_share=0.1)
    assert again.asked == 1, "what cost nothing is asked for again"
    assert set(again.refused) == {TEXTS[9]}


def test_more_refused_texts_than_allowed_end_the_job(chat: ChatServer, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    chat.broken = dict.fromkeys(TEXTS[:2], 400)
    with pytest.raises(TranslationError, match=r"2 of .*refused_share=0.05 .*HTTP 400"):
        kept(chat, storage)
    chat.broken = {}
    run = kept(chat, storage)
    assert (run.texts, run.refused) == (WANTED, {})


def test_a_refused_share_is_of_many_texts(tmp_path: Path) -> None:
    class Refusing(DictionaryTranslator):
        def translate(self, texts: Sequence[str], keep: Keep) -> None:
            self.asked = 0
            for text in texts:
                self.asked += 1
                keep([(text, Translated(None, refusal="no", is_paid=False))])

    translator = Refusing()
    many = [f"text {n}" for n in range(1000)]
    with pytest.raises(TranslationError, match="6 of 6 texts were refused"):
        translate_all(translator, many, Storage(str(tmp_path)))
    assert translator.asked == 6


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


def test_the_dictionary_is_exact_and_free(tmp_path: Path) -> None:
    run = translate_all(DictionaryTranslator(), TEXTS, Storage(str(tmp_path)))
    assert run.texts == WANTED
    assert run.usage.calls == 0
    assert run.usage.money(10, 30) == 0


def test_money_is_by_the_million_tokens() -> None:
    usage = Usage(3, 2_000_000, 500_000, 1.5) + Usage(1, 0, 500_000, 0.5)
    assert usage == Usage(4, 2_000_000, 1_000_000, 2.0)
    assert usage.money(10, 30) == pytest.approx(2 * 10 + 30)
