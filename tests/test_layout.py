"""The house: few doors, and an architecture page that names every room."""

from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_few_entries_stand_directly_under_the_package() -> None:
    entries = [path.name for path in ROOT.iterdir() if not path.name.startswith((".", "__pycache"))]
    assert len(entries) <= 30, sorted(entries)


def test_the_architecture_page_names_every_word_folder_and_stage() -> None:
    page = PAGE.read_text("utf-8")
    words = [path.name for path in ROOT.glob("[a-z]*.py")]
    folders = [f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()]
    stages = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py")]
    missing = [name for name in (*words, *folders, *stages) if name not in page]
    assert not missing
