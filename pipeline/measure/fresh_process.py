"""Do a job in a fresh process: JSON to its standard input, JSON from its last line."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class FreshProcessError(Exception):
    """The process did not do its job, and why."""


def run_fresh(
    module: str, job: Mapping[str, Any], *, timeout_s: float, environment: Mapping[str, str]
) -> Any:
    """Run ``python -m module`` with this package on its path; return what it prints last.

    ``environment`` comes on top of this process's own.

    Raises:
        FreshProcessError: it ended otherwise than with a result, or the time is over.
    """
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH")) if p)
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(job),
            env=os.environ | {"PYTHONPATH": path} | dict(environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise FreshProcessError(f"not done within {timeout_s:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        words = f"the process ended with {error.returncode}: {last[:200]}"
        raise FreshProcessError(words) from error
    except (ValueError, IndexError) as error:
        raise FreshProcessError("the process ended without a result") from error
