"""Endpoints that take a connection and then never serve it, as behind a broken proxy."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DRIP_INTERVAL_S = 0.1


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """host:port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def dripping_endpoint() -> Iterator[str]:
    """host:port of a server that sends its first caller a byte now and then, without end.

    Every byte starts the socket's time-out anew.
    """
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while not stop.wait(DRIP_INTERVAL_S):
                try:
                    connection.sendall(b"H")
                except OSError:
                    return  # the caller has gone

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,), daemon=True)
        dripping.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
