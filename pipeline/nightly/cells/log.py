"""What a cell's log says: the stage it was in, and why it ended."""

import re
from pathlib import Path

_STAGE = re.compile(r"^\d\d:\d\d:\d\d (\S.*) …$")
_TAIL_BYTES = 1 << 20
_LONGEST = 500


def read_log(path: Path) -> str:
    """Return the log's last mebibyte; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def last_stage(log: str) -> str | None:
    """Return the stage that started last, or None before the first."""
    found = [match[1] for line in log.splitlines() if (match := _STAGE.match(line))]
    return found[-1] if found else None


def error_message(log: str) -> str | None:
    """Return the words of the last line that starts with ``error:``."""
    found = [line for line in log.splitlines() if line.startswith("error: ")]
    return found[-1].removeprefix("error: ")[:_LONGEST] if found else None


def failed_gates(log: str) -> str | None:
    """Return the gates that failed, in the run's own words."""
    mark = "gate failed: "
    found = [line.removeprefix(mark) for line in log.splitlines() if line.startswith(mark)]
    return f"gate failed: {'; '.join(found)}"[:_LONGEST] if found else None


def published_path(log: str) -> str | None:
    """Return the bundle that the run says it published."""
    lines = [line for line in log.splitlines() if line.startswith("published ")]
    return lines[-1].removeprefix("published ") if lines else None
