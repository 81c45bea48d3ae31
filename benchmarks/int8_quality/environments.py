"""A virtual environment for each file of pinned requirements; the product's own where none is."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


def python_of(requirements: Path | None, root: Path) -> Path:
    """Return the Python that has a requirements file installed, installing it if need be.

    The environment lies under ``root``, named as the file, and is made anew when the file changes.
    None is this very Python.

    Raises:
        RuntimeError: pip cannot install the requirements, in its own words.
    """
    if requirements is None:
        return Path(sys.executable)
    directory = root / requirements.stem
    python = directory / "bin" / "python"
    stamp = directory / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(directory)])
    _run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)])
    stamp.write_text(wanted, "utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr or done.stdout))


def last_line(text: str) -> str:
    """Return the last line that says something, for a table's cell."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
