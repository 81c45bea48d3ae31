"""Push to and pull from the Hugging Face hub: one repository a bundle, one commit a push."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.bundle.manifest import ENGINES, TRITON
from pipeline.bundle.sharing.reference import HubReference
from pipeline.errors import ShareError

_CARRIERS = ("requests", "httpx", "httpx2", "httpcore")
"""Modules whose errors mean that there was no answer."""


def push_to_hub(
    bundle: Path, reference: HubReference, *, private: bool, without: Sequence[str] = ()
) -> HubReference:
    """Make the branch hold this bundle and nothing else, in one commit; return that commit.

    A repository that is not there is made, ``private`` or not; one that is there stays as it is.
    ``without`` names engines that stay here.

    Raises:
        ShareError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _translated(reference):
        api.create_repo(reference.repo_id, private=private, exist_ok=True)
        if reference.revision != "main":
            api.create_branch(reference.repo_id, branch=reference.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=reference.repo_id,
            folder_path=bundle,
            revision=reference.revision,
            commit_message="Publish a bundle of sentence-transformer-trt",
            delete_patterns="*",
            ignore_patterns=[
                f"{TRITON}/*",
                f"{ENGINES}/.*",
                *(f"{ENGINES}/{name}/*" for name in without),
            ],
        )
    return HubReference(repo_id=reference.repo_id, revision=commit.oid)


class HubSource:
    """The files of one commit."""

    def __init__(self, reference: HubReference) -> None:
        """Find out which commit the reference means by now.

        Raises:
            ShareError: the hub cannot be reached, or has no such repository or revision.
        """
        from huggingface_hub import HfApi

        with _translated(reference):
            info = HfApi().model_info(
                reference.repo_id, revision=reference.revision, files_metadata=True
            )
        self.reference = HubReference(repo_id=reference.repo_id, revision=str(info.sha))
        self._sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        self.names = frozenset(self._sizes)

    def fetch(self, name: str, directory: Path, *, most: int) -> None:
        """Download a file of at most ``most`` bytes to its place in a directory.

        Raises:
            ShareError: the hub has no such file, it is larger, or it cannot be downloaded.
        """
        from huggingface_hub import hf_hub_download

        size = self._sizes.get(name, 0)  # what is not there, it says itself
        if size is None or size > most:
            seen = "of a size that is not stated" if size is None else f"of {size} bytes"
            raise ShareError(f"{self.reference}: {name} is {seen} there, {most} at most")
        with _translated(self.reference):
            hf_hub_download(
                self.reference.repo_id,
                name,
                revision=self.reference.revision,
                local_dir=directory,
            )
        shutil.rmtree(directory / ".cache", ignore_errors=True)


@contextlib.contextmanager
def _translated(reference: HubReference) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise ShareError(
            f"{reference}: {_words(error)}; check the name, and log in with hf auth login"
        ) from error
    except Exception as error:  # what carries the hub's answers: requests or httpx, by its version
        if type(error).__module__.partition(".")[0] in _CARRIERS:
            raise ShareError(
                f"{reference}: cannot be reached ({type(error).__name__}); check the network"
            ) from error
        raise ShareError(f"{reference}: {_words(error)}") from error


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
