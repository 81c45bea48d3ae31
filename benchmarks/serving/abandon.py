"""Send requests that nobody waits for, then one that somebody does."""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.serving.clients import ANSWER_S, Client, Form, LostError, RefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """How long one sentence took before, and right behind, requests whose clients are gone."""

    requests: int
    texts_each: int
    before_s: float
    behind_s: float | None
    """None where it was never answered."""
    said: str
    """What a server that refused the sentence said; it is asked again until it answers."""
    refusals: int


def abandon(
    port: int, form: Form, long_text: str, *, requests: int, texts_each: int, leave_s: float = 0.05
) -> Abandoned:
    """Send ``requests`` on connections of their own, hang up, and ask for one sentence."""
    before, *_ = _time_one(port, form)
    body = form.body([long_text] * texts_each)
    head = (
        f"POST {form.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    held: list[socket.socket] = []
    for _ in range(requests):
        connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        with suppress(ConnectionError):  # refused before the body was read
            connection.sendall(head + body)
        held.append(connection)
    time.sleep(leave_s)
    for connection in held:
        connection.close()
    behind, refusals, said = _time_one(port, form)
    if before is None:
        raise LostError("a server without load did not answer one sentence")
    return Abandoned(
        requests=requests,
        texts_each=texts_each,
        before_s=before,
        behind_s=behind,
        said=said,
        refusals=refusals,
    )


def _time_one(port: int, form: Form) -> tuple[float | None, int, str]:
    """Return the seconds until one sentence is answered, and how often it was refused till then."""
    started, refusals, said = time.perf_counter(), 0, ""
    sentences: Sequence[str] = ["one sentence"]
    while time.perf_counter() - started < ANSWER_S:
        client = Client(port, form)
        try:
            client.ask(sentences)
        except RefusedError as error:
            refusals, said = refusals + 1, str(error)
            time.sleep(0.1)
        except LostError as error:
            return None, refusals, str(error)
        else:
            return time.perf_counter() - started, refusals, said
        finally:
            client.close()
    return None, refusals, said
