"""Speak to an OCI registry through oras (extra: oci), and say in one line what it refused.

Names and passwords are those of ``docker login``.
"""

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from http.client import OK
from typing import Any

from pipeline.bundle.sharing.oci_manifests import TITLE
from pipeline.bundle.sharing.reference import OciReference
from pipeline.errors import ShareError

log = logging.getLogger(__name__)

TIMEOUT_S = 60

MOST_OF_DOCUMENTS = 16 * 2**20
"""Bytes of everything but layers that a registry may send: image manifests, tokens, errors."""


def check_oras() -> None:
    """Find out before any work whether a registry can be spoken to.

    Raises:
        ShareError: oras is not installed.
    """
    if importlib.util.find_spec("oras") is None:
        raise ShareError("OCI registries need the Python package oras (extra: oci): install it")


def log_large(layer: Mapping[str, Any]) -> None:
    """Name a file that takes a while."""
    if layer["size"] >= 2**20:
        log.info("%s: %.1f MiB", layer["annotations"][TITLE], layer["size"] / 2**20)


def connect(reference: OciReference) -> tuple[Any, Any]:
    """Return oras' registry and container; plain HTTP for this machine only, as Docker does."""
    check_oras()
    import oras.provider  # first of its modules: they import each other

    once = oras.provider.Registry.do_request.__wrapped__

    class Registry(oras.provider.Registry):  # type: ignore[misc]
        """oras tries for over two minutes, also what was refused for good."""

        do_request = oras.decorator.retry(attempts=1, timeout=0)(once)

    logging.getLogger("oras.logger").setLevel(logging.CRITICAL)  # said once, by our own error
    host = reference.registry.partition(":")[0]
    registry = Registry(insecure=host in ("localhost", "127.0.0.1"))
    registry.session.request = functools.partial(registry.session.request, timeout=TIMEOUT_S)
    registry.session.hooks["response"].append(_Documents())
    container = oras.container.Container(reference.name)
    registry.auth.load_configs(container)
    return registry, container


class _Documents:
    """Reads every answer that is no layer, before requests does, and not beyond a bound.

    requests reads whatever is sent into memory, redirects and refusals too, and so does oras.
    """

    def __init__(self) -> None:
        self._left = MOST_OF_DOCUMENTS

    def __call__(self, response: Any, *_: Any, stream: bool = False, **__: Any) -> None:
        if stream and response.status_code == OK and not response.is_redirect:
            return  # a layer: whoever asked for it counts its bytes
        parts = []
        for chunk in response.iter_content(2**16):
            self._left -= len(chunk)
            if self._left < 0:
                response.close()
                raise RefusedError(
                    f"more than {MOST_OF_DOCUMENTS / 2**20:g} MiB of image manifests or other "
                    "documents: no bundle has as many"
                )
            parts.append(chunk)
        response._content = b"".join(parts)  # where requests keeps what it has read


def ok(response: Any) -> Any:
    """Return a response that the registry accepted, and raise its own words otherwise."""
    if response.status_code not in (200, 201, 202):
        with contextlib.suppress(ValueError, AttributeError, LookupError):
            reason = response.json()["errors"][0]
            raise RefusedError(f"{reason['code']}: {reason['message']}")
        raise RefusedError(f"{response.status_code} {response.reason}")
    return response


class RefusedError(Exception):
    """The registry's own words."""


@contextlib.contextmanager
def translated(reference: OciReference) -> Iterator[None]:
    """Turn what oras raises into one line."""
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import Timeout

    try:
        yield
    except (Unreachable, Timeout) as error:
        raise ShareError(
            f"{reference}: {reference.registry} cannot be reached ({type(error).__name__}); check "
            "the name and the network"
        ) from error
    except Exception as error:  # oras raises whatever it meets, Exception itself among it
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ShareError(
            f"{reference}: {words}; check the name, and log in with docker login or oras login"
        ) from error
