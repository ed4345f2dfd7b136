"""Ctrl-C stays the driver's own, whatever handler a search of Ray Tune leaves behind."""

import signal

import pytest

from cluster.session import own_interrupts


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_handler_is_what_it_was_before(is_stopped: bool) -> None:
    before = signal.getsignal(signal.SIGINT)

    def search() -> None:
        with own_interrupts():
            signal.signal(signal.SIGINT, lambda *_: None)
            if is_stopped:
                raise KeyboardInterrupt

    if is_stopped:
        with pytest.raises(KeyboardInterrupt):
            search()
    else:
        search()
    assert signal.getsignal(signal.SIGINT) is before
