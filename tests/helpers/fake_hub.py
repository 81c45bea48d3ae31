"""The few endpoints of the Hugging Face hub that pushing and pulling use, on this machine.

As huggingface_hub calls them (https://huggingface.co/docs/hub/api): a repository is a branch's
files; every commit has a number for a hash. Large files go through Git LFS's basic transfer.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]

LARGE = 100_000


class Hub:
    """What the hub holds."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, bool] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.commits: dict[str, Files] = {}
        self.uploaded: dict[str, bytes] = {}
        self.refuse: set[str] = set()
        """Kinds of request that are answered with 403."""

    def files(self, repo: str, revision: str) -> tuple[str, Files]:
        commit = self.branches.get((repo, revision), revision)
        return commit, self.commits[commit]

    def commit(self, repo: str, branch: str, files: Files) -> str:
        text = json.dumps([repo, branch, len(self.commits), sorted(files)])
        name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = files
        self.branches[repo, branch] = name
        return name


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, body: Any, code: int = 200, **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_PUT(self) -> None:
            hub.uploaded[self.path.rpartition("/")[2]] = self.body()
            self.answer({})

        def do_POST(self) -> None:
            content = self.body()
            path = unquote(urlsplit(self.path).path)
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                asked = json.loads(content)
                repo = f"{asked['organization']}/{asked['name']}"
                if "create" in hub.refuse:
                    return self.answer({"error": "no"}, 403)
                if repo in hub.private:
                    return self.answer({"error": "exists", "url": f"{hub.url}/{repo}"}, 409)
                # The newer huggingface_hub says "visibility".
                visibility = asked.get("visibility", "public")
                hub.private[repo] = asked.get("private", visibility == "private")
                hub.commit(repo, "main", {".gitattributes": b"*.onnx lfs\n"})
                return self.answer({"url": f"{hub.url}/{repo}"})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    item | {"actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}}
                    for item in json.loads(content)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            _, _, _, owner, name, action, branch = path.split("/", 6)
            repo = f"{owner}/{name}"
            if action == "branch":
                hub.commit(repo, branch, dict(hub.files(repo, "main")[1]))
                return self.answer({})
            if action == "preupload":
                return self.answer(
                    {
                        "files": [
                            {
                                "path": file["path"],
                                "uploadMode": "lfs" if file["size"] > LARGE else "regular",
                                "shouldIgnore": False,
                            }
                            for file in json.loads(content)["files"]
                        ]
                    }
                )
            if "commit" in hub.refuse:
                return self.answer({"error": "quota"}, 403)
            files = dict(hub.files(repo, branch)[1])
            for line in content.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = hub.uploaded[value["oid"]]
                elif item["key"] == "deletedFile":
                    del files[value["path"]]
            commit = hub.commit(repo, branch, files)
            return self.answer(
                {"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit}
            )

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            try:
                if path.startswith("/api/models/"):
                    _, _, _, owner, name, *rest = path.split("/", 6)
                    action, revision = rest or ("revision", "main")
                    commit, files = hub.files(f"{owner}/{name}", revision)
                    if action == "revision":
                        siblings = [
                            {"rfilename": name, "size": len(files[name])} for name in sorted(files)
                        ]
                        repo = f"{owner}/{name}"
                        return self.answer({"id": repo, "sha": commit, "siblings": siblings})
                    entries = [
                        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                        for name, content in sorted(files.items())
                    ]
                    return self.answer(entries)
                _, owner, name, _, revision, file = path.split("/", 5)
                commit, files = hub.files(f"{owner}/{name}", revision)
                content = files[file]
            except KeyError:
                code = "EntryNotFound" if "/resolve/" in path else "RepoNotFound"
                return self.answer({"error": "not found"}, 404, X_Error_Code=code)
            etag = hashlib.sha256(content).hexdigest()
            return self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=commit)

        do_HEAD = do_GET

    return Handler


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the hub on a free port."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub out, also where an earlier test left it a session that is offline."""
    import huggingface_hub.utils

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # This hub speaks Git LFS; Xet would wait for its own servers.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in ("reset_sessions", "close_session"):  # which one there is depends on the version
        getattr(huggingface_hub.utils, name, lambda: None)()
