"""Check a bundle against its manifest, and print where it comes from.

Exit codes: 0 verified; 1 something is wrong, a line for each on stderr.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.bundle.lineage import lineage_tree
from pipeline.bundle.verification import Verification, verify_bundle
from pipeline.engines.tensorrt import obstacle
from pipeline.errors import PipelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the bundle that the command line names and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    try:
        found = verify_bundle(
            options.bundle, manifest_sha256=options.manifest_sha256, public_key=options.public_key
        )
        engines = _engines_here(found)
    except PipelineError as error:
        if options.json:
            print(json.dumps({"verified": False, "problems": [str(error)]}, indent=2))
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(_data(found, engines), indent=2, ensure_ascii=False))
    else:
        print(render(found, engines))
    for problem in found.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify",
        description="Check every file of a bundle against its manifest; nothing is run.",
    )
    parser.add_argument(
        "bundle", type=Path, metavar="DIR", help="a bundle, such as artifacts/minilm/int8"
    )
    parser.add_argument(
        "--manifest-sha256",
        metavar="SHA256",
        help="what manifest.json has to be, as publishing it printed",
    )
    parser.add_argument(
        "--public-key",
        type=Path,
        metavar="FILE",
        help="require a signature by this key's private half (extra: signing)",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser


def _engines_here(found: Verification) -> dict[str, str | None]:
    """Return, by engine, why it cannot run on this machine, None where it can."""
    return {
        engine["file"]: obstacle(engine["runtime"], engine["runtime_version"], engine["target"])
        for engine in found.manifest["engines"]
    }


def render(found: Verification, engines: dict[str, str | None]) -> str:
    """Return what was found as a few lines for a terminal."""
    manifest = found.manifest
    model = manifest["model"]
    lines = [
        f"{found.root}: {model['name']} {manifest['precision']}, {manifest.get('created', '')}",
        f"  manifest    sha256 {found.manifest_sha256}",
        f"  files       {len(manifest['files'])}, {found.bytes / 2**20:.1f} MiB",
        f"  signature   {found.signature}",
        f"  validation  {found.status}",
        "  lineage",
    ]
    files = manifest["files"]
    for depth, artifact, sha256 in lineage_tree(manifest):
        inside = artifact in files or any(sha256 == file["sha256"] for file in files.values())
        where = "" if inside else f"  {model.get('id')}" if depth == 0 else "  (not in the bundle)"
        indented = "  " * depth + artifact
        lines.append(f"    {indented:<44}{sha256[:12]}{where}")
    for name, reason in engines.items():
        lines.append(f"  {name}: {'runs here' if reason is None else f'not here: {reason}'}")
    lines.append("verified" if not found.problems else f"NOT VERIFIED: {len(found.problems)} wrong")
    return "\n".join(lines)


def _data(found: Verification, engines: dict[str, str | None]) -> dict[str, Any]:
    return {
        "verified": not found.problems,
        "problems": list(found.problems),
        "bundle": str(found.root),
        "model": found.manifest["model"]["name"],
        "precision": found.manifest["precision"],
        "manifest_sha256": found.manifest_sha256,
        "files": len(found.manifest["files"]),
        "bytes": found.bytes,
        "signature": found.signature,
        "status": found.status,
        "lineage": list(found.manifest["lineage"]),
        "engines": [
            {"file": name, "runs_here": reason is None, "reason": reason}
            for name, reason in engines.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
