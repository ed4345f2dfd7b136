"""Clients that ask a service without a pause, and check the answer to each question."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

from serve.client import Client, ServiceError


@dataclass
class Asked:
    """What clients saw, on the monotonic clock: when answers came, and failed requests began."""

    answered: list[float] = field(default_factory=list)
    failed: list[tuple[float, ServiceError]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def longest_pause(self, since: float) -> tuple[float, float]:
        """The longest time between two answers, in seconds, that ended after `since`; its end."""
        moments = sorted(self.answered)
        return max((b - a, b) for a, b in pairwise(moments) if b > since)


@contextmanager
def asking(
    client: Callable[[], Client], language: str, labels: Mapping[str, str], *, clients: int
) -> Iterator[Asked]:
    """Have clients ask for the labels of texts until the block ends; a wrong one raises there."""
    asked, texts = Asked(), list(labels)

    def ask(first: int) -> None:
        with client() as own:
            for number in count(first):
                text, began = texts[number % len(texts)], time.monotonic()
                try:
                    answer = own.classify([text], language=language)
                except ServiceError as error:
                    asked.failed.append((began, error))
                    time.sleep(0.05)
                else:
                    assert answer.predictions[0].label == labels[text]
                    asked.answered.append(time.monotonic())
                if asked.stop.is_set():
                    return

    with ThreadPoolExecutor(clients) as pool:
        every = len(texts) // clients
        running = [pool.submit(ask, every * number) for number in range(clients)]
        try:
            yield asked
        finally:
            asked.stop.set()
        for each in running:
            each.result()
