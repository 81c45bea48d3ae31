"""printable: what a stranger wrote reaches the terminal as text, on the line it stands in."""

import logging
import shutil
from pathlib import Path

import pytest
from bundles import manifest_of, write_manifest

from pipeline.printable import PrintableFormatter, printable, printable_data
from pipeline.verify import main

HOSTILE = "x\x1b[2J\nverified\r\u202e\ud800\x9b1m\u2028end"
SHOWN = r"x\x1b[2J\nverified\r\u202e\ud800\x9b1m\u2028end"


def test_only_what_cannot_be_printed_is_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("модель 日本語 🙂 \\n") == "модель 日本語 🙂 \\n"
    assert printable_data({HOSTILE: [HOSTILE, 1, None]}) == {SHOWN: [SHOWN, 1, None]}


def test_what_is_logged() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "left: %s", (HOSTILE,), None)
    assert PrintableFormatter().format(record) == f"left: {SHOWN}"


@pytest.mark.many
@pytest.mark.parametrize("place", ["id", "artifact", "created"])
def test_verify_prints_no_line_of_a_bundle(
    place: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")

    def write(words: str) -> None:
        manifest = manifest_of(bundle)
        places = {"id": manifest["model"], "artifact": manifest["lineage"][1]}
        places.get(place, manifest)[place] = words
        write_manifest(bundle, manifest)

    write("plain")
    main([str(bundle)])
    lines = len(capsys.readouterr().out.splitlines())
    write(HOSTILE)
    main([str(bundle)])
    printed = capsys.readouterr()
    assert SHOWN in printed.out
    assert len(printed.out.splitlines()) == lines
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))
    assert main([str(bundle), "--json"]) in (0, 1)
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
