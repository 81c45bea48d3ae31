"""Fetch TensorRT's published type stubs into .stubs/, for mypy (``mypy_path`` in pyproject.toml).

They are not installed: the package would drag TensorRT in, and its bare ``tensorrt`` directory
would look like an installed TensorRT. A few of its signatures are not valid Python (defaults
before non-defaults, reprs as defaults); those lines become ``(self, *args, **kwargs)``.
"""

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "10.13.0.35.1"
TARGET = Path(__file__).parent.parent / ".stubs"


def mend(text: str) -> str:
    """Replace every line that does not parse by a signature that says nothing."""
    lines = text.split("\n")
    for _ in range(100):
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            index = (error.lineno or 1) - 1
            while not re.match(r"\s*def \w+\(", lines[index]):
                index -= 1
            head = re.match(r"(\s*def \w+)\(", lines[index])
            assert head is not None
            lines[index] = f"{head[1]}(self, *args: object, **kwargs: object) -> typing.Any:"
        else:
            return "\n".join(lines)
    raise SystemExit("tensorrt-stubs: too many lines that do not parse")


def main() -> None:
    """Download, mend and write the stubs."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory]
        subprocess.run([*command, f"tensorrt-stubs=={VERSION}"], check=True)
        wheel = next(Path(directory).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".pyi"):
                    path = TARGET / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(mend(archive.read(name).decode()), "utf-8")


if __name__ == "__main__":
    main()
