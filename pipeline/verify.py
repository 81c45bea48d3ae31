"""Check a bundle against its manifest, print where it comes from, and run it here.

Exit codes: 0 verified; 1 something is wrong, a line for each on stderr; 2 with --run, an engine
does not give the vectors that were published; 130 or 143 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.bundle.lineage import lineage_tree
from pipeline.bundle.verification import Verification, verify_bundle
from pipeline.ending import run_to_end
from pipeline.errors import PipelineError
from pipeline.printable import print_error, printable
from pipeline.runtime.choice import runner
from pipeline.runtime.run_all import EngineRun, run_all

_DEEPEST = 20
"""Steps of the lineage below this are drawn no further to the right."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the bundle that the command line names and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    return run_to_end(lambda: _verify(options), left="not verified")


def _verify(options: argparse.Namespace) -> int:
    try:
        found = verify_bundle(
            options.bundle,
            manifest_sha256=options.manifest_sha256,
            public_key=options.public_key,
            engine_key=options.engine_key,
        )
        runs = None
        if options.run and not found.problems:  # what was changed is not run
            runs = list(run_all(found.parent, found.engines))
        engines = _engines_here(found)
    except PipelineError as error:
        if options.json:
            print(json.dumps({"verified": False, "problems": [str(error)]}, indent=2))
        print_error(error)
        return 1
    failed = [f"{run.file} in {run.runtime}: {gate}" for run, gate in _failed_gates(runs or [])]
    if options.json:
        print(json.dumps(_data(found, engines, runs), indent=2))
    else:
        print(render(found, engines, runs))
    for problem in (*found.problems, *failed):
        print_error(problem)
    return 1 if found.problems else 2 if failed else 0


def _failed_gates(runs: Sequence[EngineRun]) -> list[tuple[EngineRun, str]]:
    return [(run, gate) for run in runs if run.checked for gate in run.checked.failed]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify",
        description="Check every file of a bundle against its manifest; --run runs it, too.",
    )
    parser.add_argument(
        "bundle", type=Path, metavar="DIR", help="a bundle, such as artifacts/minilm/int8"
    )
    parser.add_argument(
        "--run",
        action="store_true",
        help="encode the check texts with every engine that runs here, and hold it to the gates",
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
    parser.add_argument(
        "--engine-key",
        type=Path,
        metavar="FILE",
        help="require it of the engines, where whoever builds them has another key",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser


def _engines_here(found: Verification) -> dict[str, str | None]:
    """Return, by engine, why it cannot run on this machine, None where it can."""
    return {engine.file: runner(engine)[1] for engine in found.engines}


def render(
    found: Verification, engines: dict[str, str | None], runs: Sequence[EngineRun] | None
) -> str:
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
    listed = {file["sha256"] for file in files.values()}
    for depth, artifact, sha256 in lineage_tree(manifest):
        inside = artifact in files or sha256 in listed
        where = "" if inside else f"  {model.get('id')}" if depth == 0 else "  (not in the bundle)"
        indented = "  " * min(depth, _DEEPEST) + artifact
        lines.append(f"    {indented:<44} {sha256[:12]}{where}")
        for engine in found.engines if sha256 == found.parent.graph_sha256 else ():
            indented = "  " * min(depth + 1, _DEEPEST) + engine.file
            plan = engine.manifest["files"]["model.plan"]["sha256"]
            lines.append(f"    {indented:<44} {plan[:12]}  manifest {engine.manifest_sha256[:12]}")
    for name, reason in engines.items() if runs is None else ():
        lines.append(f"  {name}: {'runs here' if reason is None else f'not here: {reason}'}")
    lines += [f"  {_say(run)}" for run in runs or ()]
    lines.append("verified" if not found.problems else f"NOT VERIFIED: {len(found.problems)} wrong")
    if runs and _failed_gates(runs):
        lines[-1] = "verified, but this machine does not give the vectors that were published"
    return "\n".join(map(printable, lines))


def _say(run: EngineRun) -> str:
    name = f"{run.file} in {run.runtime}"
    checked = run.checked
    if checked is None:
        return f"{name}: not run: {run.reason}"
    word = "failed" if checked.failed else "passed"
    return (
        f"{name} on {checked.device}: {word}, mean cosine {checked.mean:.6f}, p1 {checked.p1:.6f}, "
        f"lowest {checked.min:.6f} over {checked.n} texts, "
        f"{checked.sentences_per_second:,.0f} sentences/s"
    )


def _data(
    found: Verification, engines: dict[str, str | None], runs: Sequence[EngineRun] | None
) -> dict[str, Any]:
    data: dict[str, Any] = {
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
            {
                "file": engine.file,
                "manifest_sha256": engine.manifest_sha256,
                "runs_here": engines[engine.file] is None,
                "reason": engines[engine.file],
            }
            for engine in found.engines
        ],
    }
    if runs is not None:
        data["runs"] = [
            {"name": run.runtime, "file": run.file}
            | (run.checked.data() if run.checked else {"executed": False, "reason": run.reason})
            for run in runs
        ]
    return data


if __name__ == "__main__":
    sys.exit(main())
