import json
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.errors import ConfigError, DatasetError
from pipeline.text.datasets import Dataset, load_dataset, spread
from pipeline.text.labelled import Retrieval, ScoredPairs
from pipeline.text.tokens import Tokenizer

FRACTIONS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
PAIR_COLUMNS = {"sentence1_column": "a", "sentence2_column": "b", "score_column": "score"}

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and gives its path."""

    def run(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return run


@pytest.fixture(scope="module")
def sample_rows() -> list[dict[str, str]]:
    text = resources.files("pipeline").joinpath("text/data/sample.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def load(path: Path, **settings: Any) -> Dataset:
    suffix = path.suffix.removeprefix(".")
    format_ = DatasetFormat(suffix) if suffix else DatasetFormat.beir
    return load_dataset(DatasetConfig(name="mine", format=format_, path=str(path), **settings))


def sentences(n: int) -> list[str]:
    return [f"sentence number {i}" for i in range(n)]


def pairs_csv(pairs: list[tuple[str, str]]) -> str:
    return "a,b,score\n" + "".join(f"{a},{b},{i % 6}\n" for i, (a, b) in enumerate(pairs))


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# The bundled sample set


def test_sample_halves_share_no_group_and_no_text(sample_rows: list[dict[str, str]]) -> None:
    halves = [[r for r in sample_rows if r["split"] == s] for s in ("calibration", "evaluation")]
    assert sum(map(len, halves)) == len(sample_rows)
    for key in ("group", "text"):
        first, second = ({r[key] for r in half} for half in halves)
        assert first
        assert not first & second


def test_sample_holds_over_a_thousand_different_texts_of_many_kinds(
    sample_rows: list[dict[str, str]],
) -> None:
    assert len(sample_rows) >= 1000
    folded = Counter(" ".join(r["text"].casefold().split()) for r in sample_rows)
    assert [text for text, n in folded.items() if n > 1] == []
    for split in ("calibration", "evaluation"):
        assert len({r["kind"] for r in sample_rows if r["split"] == split}) >= 15


def test_sample_halves_reach_from_a_few_tokens_to_near_max_length(
    sample: Dataset, minilm_dir: Path
) -> None:
    tokenizer = Tokenizer(minilm_dir, max_length=256)
    for texts in (sample.calibration, sample.evaluation):
        lengths = [len(row.ids) for row in tokenizer.rows(texts)]
        assert min(lengths) <= 5
        assert max(lengths) >= 240


def test_sample_task_asks_for_the_other_texts_of_a_group(
    sample: Dataset, sample_rows: list[dict[str, str]]
) -> None:
    (task,) = sample.tasks
    assert isinstance(task, Retrieval)
    assert (task.metric, task.exclude_self) == ("recall_at_10", True)
    group = {r["text"]: r["group"] for r in sample_rows}
    members = Counter(group[text] for text in task.documents)
    for i, relevant in enumerate(task.relevant):
        assert i not in relevant
        assert {group[task.documents[j]] for j in relevant} <= {group[task.queries[i]]}
        assert len(relevant) == members[group[task.queries[i]]] - 1


def test_spread_keeps_the_order_and_reaches_every_part() -> None:
    assert spread(range(10), 20) == list(range(10))
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(1000), 7)[-1] >= 850


# Your own text


def test_csv_pairs_become_a_scored_task_and_all_validate(write: Write) -> None:
    text = 'a,b,score\n"one, two","say ""hi""",4.5\n' + pairs_csv(
        [(f"left {i}", f"right {i}") for i in range(10)]
    ).removeprefix("a,b,score\n")
    dataset = load(write("pairs.csv", text), **PAIR_COLUMNS)
    (task,) = dataset.tasks
    assert isinstance(task, ScoredPairs)
    assert task.pairs[0] == ("one, two", 'say "hi"')
    assert task.scores[:3] == (4.5, 0.0, 1.0)
    assert len(task.pairs) == 11
    assert set(dataset.evaluation) == {text for pair in task.pairs for text in pair}


def test_calibration_always_holds_the_sample_half(write: Write, sample: Dataset) -> None:
    dataset = load(write("own.csv", "text\n" + "\n".join(sentences(20))), text_column="text")
    assert dataset.calibration == sample.calibration


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(write: Write) -> None:
    path = write("own.csv", "\ufefftext\r\n" + "\r\n".join(sentences(20)))
    assert load(path, text_column="text").evaluation == tuple(sentences(20))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_sentences_are_split_between_calibration_and_evaluation(
    suffix: str, write: Write, sample: Dataset
) -> None:
    own = sentences(200)
    text = "text\n" + "\n".join(own) if suffix == "csv" else jsonl([{"text": s} for s in own])
    dataset = load(write(f"own.{suffix}", text), text_column="text", calibration_fraction=0.5)
    calibration = set(dataset.calibration) - set(sample.calibration)
    assert calibration | set(dataset.evaluation) == set(own)
    assert 60 <= len(calibration) <= 140
    assert dataset.tasks == ()


def test_a_group_stays_on_one_side_and_becomes_a_task(write: Write) -> None:
    rows = [{"text": s, "group": f"g{i // 4}"} for i, s in enumerate(sentences(200))]
    path = write("own.jsonl", jsonl(rows))
    dataset = load(path, text_column="text", group_column="group", calibration_fraction=0.5)
    group = {row["text"]: row["group"] for row in rows}
    sides = [
        {group[t] for t in half if t in group} for half in (dataset.calibration, dataset.evaluation)
    ]
    assert sides[0]
    assert not sides[0] & sides[1]
    (task,) = dataset.tasks
    assert isinstance(task, Retrieval)
    assert {len(relevant) for relevant in task.relevant} == {3}


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_no_sentence_both_calibrates_and_validates(fraction: float, write: Write) -> None:
    # Repeats, one text in two groups, and texts of the sample set's two halves.
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    texts = [*sentences(600), *sentences(60), *sample.calibration[:50], *sample.evaluation[:50]]
    rows = [{"text": text, "group": f"g{i % 67}"} for i, text in enumerate(texts)]
    dataset = load(
        write("own.jsonl", jsonl(rows)),
        text_column="text",
        group_column="group",
        calibration_fraction=fraction,
    )
    assert not set(dataset.calibration) & set(dataset.evaluation)
    (task,) = dataset.tasks
    assert isinstance(task, Retrieval)
    assert not set(dataset.calibration) & {*task.queries, *task.documents}


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_pairs_connected_by_a_common_sentence_stay_on_one_side(
    fraction: float, write: Write, sample: Dataset
) -> None:
    chains = [[(f"c{c} s{i}", f"c{c} s{i + 1}") for i in range(5)] for c in range(60)]
    path = write(
        "pairs.csv", pairs_csv([pair for i in range(5) for pair in (c[i] for c in chains)])
    )
    dataset = load(path, **PAIR_COLUMNS, calibration_fraction=fraction)
    own = set(dataset.calibration) - set(sample.calibration)
    sides = [{text.split()[0] for text in half} for half in (own, dataset.evaluation)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 60
    assert bool(sides[0]) == (fraction > 0)
    (task,) = dataset.tasks
    assert isinstance(task, ScoredPairs)
    assert {text for pair in task.pairs for text in pair} == set(dataset.evaluation)


def test_the_split_of_sentences_does_not_depend_on_row_order(write: Write) -> None:
    validated = []
    for i, own in enumerate((sentences(100), sentences(100)[::-1])):
        path = write(f"{i}.csv", "text\n" + "\n".join(own))
        dataset = load(path, text_column="text", calibration_fraction=0.5)
        validated.append(set(dataset.evaluation))
    assert validated[0] == validated[1]


def test_the_split_of_pairs_does_not_depend_on_row_order(write: Write) -> None:
    pairs = [(f"hub {h}", f"spoke {h} {s}") for h in range(60) for s in range(4)]
    validated = []
    for i, order in enumerate((pairs, pairs[::-1])):
        path = write(f"{i}.csv", pairs_csv(order))
        dataset = load(path, **PAIR_COLUMNS, calibration_fraction=0.5)
        validated.append(set(dataset.evaluation))
    assert validated[0] == validated[1]


def test_texts_that_are_equal_in_a_group_ask_for_nothing(write: Write) -> None:
    rows = [{"text": s, "group": s} for s in [*sentences(20), *sentences(20)]]
    path = write("own.jsonl", jsonl(rows))
    assert load(path, text_column="text", group_column="group").tasks == ()


@pytest.mark.parametrize(
    ("columns", "head"), [({"text_column": "a"}, "a,kind"), (PAIR_COLUMNS, "a,b,score,kind")]
)
def test_a_column_names_the_kinds_of_what_validates(
    columns: dict[str, str], head: str, write: Write
) -> None:
    others = {"a,kind": "{0},{1}", "a,b,score,kind": "{0},{0} too,{2},{1}"}[head]
    lines = [
        others.format(s, "odd" if i % 2 else "even", i % 5) for i, s in enumerate(sentences(60))
    ]
    path = write("own.csv", "\n".join([head, *lines]))
    dataset = load(path, kind_column="kind", calibration_fraction=0.3, **columns)
    assert set(dataset.kinds) == set(dataset.evaluation)
    for text, kind in dataset.kinds.items():
        assert kind == ("odd" if int(text.split()[2]) % 2 else "even")
    assert load(path, **columns).kinds == {}


def test_a_kind_left_out_names_its_column(write: Write) -> None:
    path = write("own.csv", "text,kind\none,\n")
    with pytest.raises(DatasetError, match=r"line 2: kind is empty"):
        load(path, text_column="text", kind_column="kind")


def test_the_sample_set_s_kinds_are_known(
    sample: Dataset, sample_rows: list[dict[str, str]]
) -> None:
    assert sample.kinds == {r["text"]: r["kind"] for r in sample_rows if r["split"] == "evaluation"}


# A retrieval collection


@pytest.fixture
def beir(write: Write, tmp_path: Path) -> Path:
    documents = [{"_id": f"d{i}", "title": "", "text": f"document {i}"} for i in range(12)]
    documents[1]["title"] = "A title"
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)]
    write("beir/corpus.jsonl", jsonl(documents))
    write("beir/queries.jsonl", jsonl(queries))
    lines = ["query-id\tcorpus-id\tscore", "q2\td1\t2", "q2\td3\t1", "q0\td0\t1", "q0\td2\t0"]
    write("beir/qrels/test.tsv", "\n".join(lines))
    return tmp_path / "beir"


def test_beir_keeps_judged_queries_and_positive_judgements(beir: Path, sample: Dataset) -> None:
    dataset = load(beir)
    (task,) = dataset.tasks
    assert isinstance(task, Retrieval)
    assert task.metric == "ndcg_at_10"
    assert task.queries == ("query 0", "query 2")
    assert task.relevant == ({0: 1}, {1: 2, 3: 1})
    assert task.documents[:2] == ("document 0", "A title document 1")
    assert set(dataset.evaluation) == {*task.queries, *task.documents}
    assert {dataset.kinds[text] for text in task.queries} == {"query"}
    assert {dataset.kinds[text] for text in task.documents} == {"document"}
    assert dataset.calibration == sample.calibration


def test_beir_without_the_split_names_the_file_and_the_key(beir: Path) -> None:
    with pytest.raises(DatasetError, match=r"dev\.tsv.*dataset\.split"):
        load(beir, split="dev")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("corpus.jsonl", '{"_id": "d0", "text": "x"}\n{"_id": "d1", "te'),
        ("corpus.jsonl", '{"_id": "d0"}\n'),
        ("queries.jsonl", '["q0", "x"]\n'),
        ("qrels/test.tsv", "query-id\tscore\nq0\t1\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\thigh\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t2.5\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq9\td0\t1\n"),
    ],
    ids=[
        "half a line",
        "no text",
        "not an object",
        "no corpus-id column",
        "score is no number",
        "score is no whole number",
        "score left out",
        "no known query",
    ],
)
def test_a_damaged_beir_file_is_named(name: str, text: str, beir: Path) -> None:
    (beir / name).write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=Path(name).name):
        load(beir)


# What is wrong, and where


@pytest.mark.parametrize(
    ("name", "text", "settings", "seen"),
    [
        ("x.csv", "text\na\n", {"text_column": "body"}, ["x.csv", "line 1", "'body'", "'text'"]),
        (
            "x.jsonl",
            '{"text": "a"}\n{}\n',
            {"text_column": "text"},
            ["x.jsonl", "line 2", "'text'"],
        ),
        (
            "x.csv",
            "text,n\na,1\n  ,2\n",
            {"text_column": "text"},
            ["x.csv", "line 3", "text is empty"],
        ),
        ("x.jsonl", '{"text": null}\n', {"text_column": "text"}, ["line 1", "text is empty"]),
        ("x.csv", "a,b,score\nx,y\n", PAIR_COLUMNS, ["x.csv", "line 2", "2 fields, expected 3"]),
        ("x.csv", "a,b,score\nx,y,1\nx,z,high\n", PAIR_COLUMNS, ["line 3", "score='high'"]),
        ("x.csv", "a,b,score\nx,y,1\nx,z,nan\n", PAIR_COLUMNS, ["line 3", "score='nan'"]),
        ("x.jsonl", '{"text": "a"}\n{"tex', {"text_column": "text"}, ["x.jsonl", "line 2"]),
        (
            "x.jsonl",
            '{"text": "a"}\n{"text": "\\ud83d"}\n',
            {"text_column": "text"},
            ["line 2", "text"],
        ),
        ("x.jsonl", '["a"]\n', {"text_column": "text"}, ["x.jsonl", "expected an object"]),
        ("x.jsonl", "", {"text_column": "text"}, ["x.jsonl", "no rows"]),
        (
            "x.csv",
            "text\na\nb\n",
            {"text_column": "text"},
            ["2 different sentences", "at least 12"],
        ),
    ],
    ids=[
        "column missing",
        "key missing",
        "blank text",
        "null text",
        "short row",
        "score is a word",
        "score is nan",
        "malformed json",
        "half a surrogate pair",
        "json list",
        "no rows",
        "too few",
    ],
)
def test_bad_rows_are_named(
    name: str, text: str, settings: dict[str, str], seen: list[str], write: Write
) -> None:
    with pytest.raises(DatasetError) as caught:
        load(write(name, text), **settings)
    for words in seen:
        assert words in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"latin\.csv: line 2: not UTF-8"):
        load(path, text_column="text")


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(DatasetError, match=r"dir\.csv: Is a directory"):
        load(tmp_path / "dir.csv", text_column="text")


@pytest.mark.parametrize("format_", [DatasetFormat.csv, DatasetFormat.jsonl, DatasetFormat.beir])
def test_a_missing_path_is_named(format_: DatasetFormat, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"dataset\.path=.*nowhere: no such file"):
        load_dataset(DatasetConfig(name="mine", format=format_, path=path, text_column="text"))


def test_a_path_left_out_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.path"):
        load_dataset(DatasetConfig(name="mine", format=DatasetFormat.csv, text_column="text"))


def test_columns_left_out_are_a_config_error(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"text_column.*sentence1_column"):
        load(write("x.csv", "a\nb\n"))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_leaves_nothing_is_a_config_error(fraction: float) -> None:
    config = DatasetConfig(
        name="sample", format=DatasetFormat.sample, calibration_fraction=fraction
    )
    with pytest.raises(ConfigError, match=r"dataset\.calibration_fraction"):
        load_dataset(config)
