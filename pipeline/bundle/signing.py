"""Sign a bundle, and check a signature, with OpenSSF's model-signing (extra: signing).

``model.sig`` is a Sigstore bundle over the sha256 of every file but itself, the manifest included,
so that ``model_signing verify`` reads it too. ``engines/`` and ``triton/`` come later and are left
out; each engine has a signature of its own. Keys are elliptic curve (P-256, P-384 or P-521) in PEM
(https://github.com/sigstore/model-transparency).
"""

import importlib
import os
from pathlib import Path
from typing import Any

from pipeline.bundle.manifest import ENGINES, SIGNATURE, TRITON
from pipeline.bundle.regular import open_regular
from pipeline.errors import BundleError, PublishError

PASSWORD = "SIGNING_KEY_PASSWORD"  # noqa: S105 - the name of a variable
"""The environment variable that unlocks an encrypted private key."""

_MISSING = "Python package model-signing is not installed (extra: signing)"


def check_key(key: Path) -> None:
    """Find out before any work whether ``key`` can sign.

    Raises:
        PublishError: the library is missing, or the file is no private key that it takes.
    """
    _signer(key)


def sign_bundle(bundle: Path, key: Path) -> None:
    """Write ``model.sig``, over all that is in the directory by now.

    Raises:
        PublishError: as ``check_key``.
        OSError: the signature cannot be written.
    """
    _signer(key).set_hashing_config(_hashing()).sign(bundle, bundle / SIGNATURE)


def signature_problem(bundle: Path, public_key: Path) -> str | None:
    """Return why the bundle is not what the owner of the key signed, or None where it is.

    Raises:
        BundleError: the library is missing, or the file is no public key that it takes.
    """
    verifying = _module("verifying")
    if verifying is None:
        raise BundleError(f"--public-key: {_MISSING}")
    signature = bundle / SIGNATURE
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # cryptography's exceptions share no base
        raise BundleError(
            f"{public_key}: not a public key: {_first_line(error)}; expected an elliptic curve "
            "key (P-256, P-384 or P-521) in PEM"
        ) from error
    try:
        with open_regular(bundle, SIGNATURE):
            pass
    except FileNotFoundError:
        return f"{signature}: missing: the bundle is not signed"
    except OSError as error:
        return f"{signature}: {error.strerror or error}; remove it"
    try:
        config.set_hashing_config(_hashing()).verify(bundle, signature)
    except Exception as error:  # a broken signature raises whatever its parser meets
        return (
            f"{signature}: not the signature of this bundle by {public_key}: {_first_line(error)}"
        )
    return None


def _signer(key: Path) -> Any:
    signing = _module("signing")
    if signing is None:
        raise PublishError(f"publish.signing.key: {_MISSING}; install it, or set the key to null")
    password = os.environ.get(PASSWORD)
    try:
        return signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except Exception as error:  # cryptography's exceptions share no base
        raise PublishError(
            f"publish.signing.key={key}: not a private key that signs: {_first_line(error)}; "
            "expected an elliptic curve key (P-256, P-384 or P-521) in PEM, its password, if it "
            f"has one, in the environment variable {PASSWORD}"
        ) from error


def _hashing() -> Any:
    """Every file but the signature and what is made later, which has signatures of its own.

    The library would leave out what looks like Git's.
    """
    paths = [SIGNATURE, ENGINES, TRITON]
    return _module("hashing").Config().set_ignored_paths(paths=paths, ignore_git_paths=False)


def _module(name: str) -> Any:
    """Return a module of the library, or None without it; its classes are not annotated."""
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError:
        return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("\n")[0][:1000]
