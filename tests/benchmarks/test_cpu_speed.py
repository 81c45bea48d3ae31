"""The benchmark of speed on the CPU: rounds, their statistics, workers, texts and the page."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from benchmarks.cpu_speed.__main__ import options, wanted
from benchmarks.cpu_speed.checks import compare, refuse_slow
from benchmarks.cpu_speed.findings import findings
from benchmarks.cpu_speed.measure import SHAPES, Setup, figures, measure
from benchmarks.cpu_speed.peers import worker
from benchmarks.cpu_speed.peers.worker import Job, carry_out, made, mean_pool
from benchmarks.cpu_speed.rounds import ratio, run_rounds, texts_for
from benchmarks.cpu_speed.sides import REFERENCE, Side, all_sides
from benchmarks.cpu_speed.table import render
from benchmarks.cpu_speed.texts import calibration_texts, cut, fixed_texts, make_pools
from benchmarks.cpu_speed.workers import SideError, Worker

REAL_ROUNDS = 15


def test_a_machine_that_slows_down_cancels_within_the_round() -> None:
    slow = np.random.default_rng(0).uniform(1, 100, REAL_ROUNDS)
    seen = ratio(6 * slow, 2 * slow)
    assert seen.median == pytest.approx(3)
    assert seen.ci95 == pytest.approx((3, 3))


def test_the_interval_is_of_order_statistics() -> None:
    seen = ratio(np.arange(1, 16.0), np.ones(15))
    assert (seen.median, seen.ci95) == (8, (4, 12))
    assert ratio(np.ones(6), np.ones(6)).ci95 == (1, 1)
    assert ratio(np.ones(5), np.ones(5)).ci95 is None


def _simulate(speedup: float, runs: int = 400) -> list[tuple[float, float]]:
    """Return intervals of runs whose passes vary by 2 %; one in ten takes half as long again."""
    random = np.random.default_rng(1)
    shape = (2, runs, REAL_ROUNDS)
    seconds = random.lognormal(0, 0.02, shape) * (1 + 0.5 * (random.random(shape) < 0.1))
    intervals = [
        ratio(reference, side / speedup).ci95 for reference, side in zip(*seconds, strict=True)
    ]
    return [interval for interval in intervals if interval is not None]


def test_equal_sides_are_rarely_told_apart_and_unequal_ones_mostly_are() -> None:
    apart = [not low <= 1 <= high for low, high in _simulate(1.0)]
    assert len(apart) == 400
    assert sum(apart) <= 0.05 * len(apart)
    caught = [low > 1 for low, _ in _simulate(1.05)]
    assert sum(caught) >= 0.75 * len(caught)


def _never(name: str, error: SideError) -> None:
    raise AssertionError((name, error))


def test_every_round_times_every_side_once_a_shape_in_an_order_of_its_own() -> None:
    ran: list[tuple[str, str]] = []

    def side(name: str) -> Callable[[str], list[float]]:
        def run(shape: str) -> list[float]:
            ran.append((shape, name))
            return [float(len(ran))]

        return run

    times = run_rounds({n: side(n) for n in "abc"}, ("x", "y"), 20, failed=_never)
    turns = [ran[i : i + 3] for i in range(0, len(ran), 3)]
    assert len(turns) == 40
    assert all({name for _, name in turn} == set("abc") for turn in turns)
    assert all(len({shape for shape, _ in turn}) == 1 for turn in turns)
    assert len({tuple(name for _, name in turn) for turn in turns}) == 6
    assert [len(times[n][s]) for n in "abc" for s in "xy"] == [20] * 6
    # Times stand under the round they were taken in, or ratios would not be within rounds.
    for n, s in itertools.product("abc", "xy"):
        assert [t for (t,) in times[n][s]] == sorted(t for (t,) in times[n][s])


def test_a_side_that_fails_leaves_the_others_running() -> None:
    told: list[str] = []

    def broken(shape: str) -> list[float]:
        if shape == "y":
            raise SideError("out of memory")
        return [1.0]

    times = run_rounds(
        {"good": lambda _: [1.0], "bad": broken},
        ("x", "y"),
        4,
        failed=lambda name, error: told.append(f"{name}: {error}"),
    )
    assert told == ["bad: out of memory"]
    assert times == {"good": {"x": [[1.0]] * 4, "y": [[1.0]] * 4}}


def test_a_pass_is_long_enough_for_the_fastest_side() -> None:
    assert texts_for([4.0, 0.5, 1.0], texts=64, least_s=0.5, batch=32) == 64
    assert texts_for([4.0, 0.1], texts=64, least_s=0.5, batch=32) == 320
    assert texts_for([4.0, 0.11], texts=64, least_s=0.5, batch=32) == 320  # 291, in whole batches
    assert texts_for([90.0], texts=64, least_s=0.5, batch=32) == 32


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2}
    made_here = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made_here.pre_tokenizer = Whitespace()
    made_here.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return made_here


def test_fixed_texts_have_exactly_the_tokens_asked_for(tokenizer: Tokenizer) -> None:
    sentences = [f"sentence number {i} of many." for i in range(30)]
    texts = fixed_texts(sentences, tokenizer, 24)
    assert len(texts) == len(set(texts)) == 30
    assert {len(tokenizer.encode(text).ids) for text in texts} == {24}
    assert texts[0].startswith("sentence number 0 of many. sentence number 1")
    assert cut(texts[0], tokenizer, 23) == texts[0].rsplit(maxsplit=1)[0]
    with pytest.raises(ValueError, match="no text of 24 tokens"):
        fixed_texts(["short", "shorter"], tokenizer, 24)


def test_every_library_can_take_the_texts_whole(minilm_dir: Path) -> None:
    file = minilm_dir / "tokenizer.json"
    pools = make_pools(None, file)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lengths = {
        pool: [len(tokenizer.encode(text).ids) for text in texts] for pool, texts in pools.items()
    }
    assert 64 < max(lengths["natural"]) <= 128
    assert set(lengths["fixed"]) == {128}
    assert len(set(pools["fixed"])) >= 200
    assert lengths["probe"] == [128, 127]
    assert not set(calibration_texts()) & set(pools["natural"])


def test_only_the_timed_passes_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    seen: list[int] = []

    def encode(texts: list[str]) -> Any:
        seen.append(len(texts))
        clock[0] += len(texts) if len(seen) > 1 else 1000
        return np.arange(len(texts), dtype=np.float32)[:, None]

    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    order = {"do": "seconds", "pool": "p", "count": 5, "warm_up": 2, "repeat": 3}
    assert carry_out(order, {"p": ["a", "b", "c"]}, encode) == {"seconds": [5, 5, 5]}
    assert seen == [2, 5, 5, 5]
    file = tmp_path / "v.npy"
    carry_out({"do": "vectors", "pool": "p", "count": 3, "file": str(file)}, {"p": ["a"]}, encode)
    assert np.load(file).tolist() == [[0], [1], [2]]


def _job(tmp_path: Path, **changed: Any) -> Job:
    values: dict[str, Any] = {
        "model": "",
        "directory": str(tmp_path / "side"),
        "exports": str(tmp_path),
        "options": {},
        "calibration": [],
        "pools": {},
    }
    return Job(**values | changed)


def test_exports_are_made_again_only_when_what_they_are_made_of_changes(tmp_path: Path) -> None:
    calls: list[Path] = []
    for options_ in ({"form": "a"}, {"form": "a"}, {"form": "b"}):
        directory = made(_job(tmp_path, options=options_), calls.append, ["numpy"])
    made(_job(tmp_path, options={"form": "b"}, calibration=["text"]), calls.append, ["numpy"])
    assert calls == [directory] * 3

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made(_job(tmp_path), fail, ["numpy"])
    made(_job(tmp_path), calls.append, ["numpy"])
    assert len(calls) == 4
    assert not (directory / "half").exists()


def test_padding_does_not_enter_the_mean() -> None:
    tokens = np.array([[[3.0, 4.0], [3.0, 4.0], [9.0, 9.0]]], dtype=np.float32)
    assert mean_pool(tokens, [2]) == pytest.approx(np.array([[0.6, 0.8]]))


FAKE = """#!{python}
import json, sys, time
import numpy as np
from benchmarks.cpu_speed.peers.worker import Job, run

def load(job):
    print("loading")
    def encode(texts):
        print("encoding")
        if "bad" in texts:
            raise ValueError("cannot encode")
        return np.ones((len(texts), 2), np.float32)
    return encode

def last_words(*error):
    time.sleep(0.2)  # the pipe has been closed by then
    sys.__excepthook__(*error)

sys.excepthook = last_words
sys.argv[1:] = sys.argv[3:]
run(Job(**json.load(open(sys.argv[1]))), load, ["numpy"])
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Start workers whose Python runs a fake side, whatever script it is given."""
    python = tmp_path / "python"
    python.write_text(FAKE.format(python=sys.executable))
    python.chmod(0o755)
    job = tmp_path / "job.json"
    pools = {"good": ["a", "b"], "bad": ["bad"]}
    values = {"model": "", "directory": "", "exports": "", "options": {}, "calibration": []}
    job.write_text(json.dumps(values | {"pools": pools}))
    side = Side(name="fake", title="", setting="", peer="fake")
    started: list[Worker] = []

    def begin() -> Worker:
        started.append(Worker(side, python, job, tmp_path / "logs" / "fake.log"))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def _is_stopped(one: Worker) -> bool:
    """Say whether the process stops, which it does a moment after the signal was sent."""
    for _ in range(100):
        if Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(") ")[2][0] == "T":
            return True
        time.sleep(0.02)
    return False


def test_a_worker_answers_whatever_its_library_prints(
    start: Callable[[], Worker], tmp_path: Path
) -> None:
    one = start()
    assert one.versions == {"numpy": np.__version__}
    one.save_vectors("good", 3, tmp_path / "v.npy")
    assert np.load(tmp_path / "v.npy").shape == (3, 2)
    assert len(one.seconds("good", 2, warm_up=1, repeat=4)) == 4
    one.close()
    assert one.process.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="no /proc to read states from")
def test_a_worker_is_stopped_between_orders(start: Callable[[], Worker]) -> None:
    one = start()
    assert _is_stopped(one)
    one.seconds("good", 2, warm_up=1)
    assert _is_stopped(one)


def test_a_worker_that_dies_is_told_by_its_last_line(start: Callable[[], Worker]) -> None:
    one = start()
    with pytest.raises(SideError, match=r"^ValueError: cannot encode$"):
        one.seconds("bad", 1, warm_up=1)
    with pytest.raises(SideError, match="cannot encode"):
        one.seconds("good", 1, warm_up=1)


def test_a_worker_that_cannot_load_is_told_as_well(tmp_path: Path) -> None:
    side = Side(name="none", title="", setting="", peer="none")
    job = tmp_path / "job.json"
    with pytest.raises(SideError, match=r"No module named .*cpu_speed\.peers\.none"):
        Worker(side, Path(sys.executable), job, tmp_path / "none.log")


def _vectors(probe_effect: float) -> dict[str, Any]:
    random = np.random.default_rng(2)
    first = np.array([1.0, 0, 0], dtype=np.float32)
    second = np.array([1.0, probe_effect, 0], dtype=np.float32)
    natural = random.normal(size=(8, 3)).astype(np.float32)
    return {"natural": natural, "probe": np.stack([first, second])}


def test_vectors_are_compared_and_other_models_and_cut_texts_refused() -> None:
    reference = _vectors(0.1)
    near = reference | {"natural": reference["natural"] * 2 + 0.01}
    seen = compare(reference, near)
    assert 0.9 < seen["min"] <= seen["mean"] < 1
    with pytest.raises(SideError, match="not this model's vectors"):
        compare(reference, reference | {"natural": -reference["natural"]})
    with pytest.raises(SideError, match="not this model's vectors"):
        compare(reference, reference | {"natural": reference["natural"] * np.nan})
    with pytest.raises(SideError, match=r"vectors of shape \(7, 3\)"):
        compare(reference, reference | {"natural": reference["natural"][1:]})
    with pytest.raises(SideError, match="token 128 changes nothing"):
        compare(reference, _vectors(0.0))


def test_a_very_slow_side_is_not_timed() -> None:
    refuse_slow({"natural": 1.0, "fixed": 2.0}, {"natural": 3.9, "fixed": 7.9})
    with pytest.raises(SideError, match=r"^4\.1 times slower than PyTorch fp32 .*\(fixed\)"):
        refuse_slow({"natural": 1.0, "fixed": 2.0}, {"natural": 3.9, "fixed": 8.2})


def _times(factor: float) -> dict[str, list[list[float]]]:
    return {
        "natural": [[8 * factor]] * 6,
        "fixed": [[4 * factor]] * 6,
        "single": [[0.01 * factor, 0.02 * factor, 0.9 * factor]] * 6,
    }


def test_figures_of_a_side() -> None:
    times = {REFERENCE: _times(1.0), "side": _times(0.5)}
    seen = figures(times, "side", {"natural": 400, "fixed": 64, "single": 1})
    assert [seen["ratio"][shape]["median"] for shape in SHAPES] == pytest.approx([2, 2, 2])
    assert seen["sentences_per_second"] == pytest.approx(100)
    assert seen["tokens_per_second"] == pytest.approx(128 * 64 / 2)
    assert seen["single_ms"] == pytest.approx(10)  # the median of all passes, not their mean


class FakeWorker:
    """A side without a process: a text takes ``per_text_s``, the n-th timed order fails."""

    versions: Mapping[str, str] = {"maker": "1.0"}

    def __init__(self, side: Side, per_text_s: float, fails_at: int | None) -> None:
        self.side = side
        self.per_text_s = per_text_s
        self.left = fails_at
        self.ended = False

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.ended = True

    def save_vectors(self, pool: str, count: int, file: Path) -> None:
        np.save(file, _vectors(0.1)[pool][:count] + (0 if self.side.name == REFERENCE else 0.01))

    def seconds(self, pool: str, count: int, *, warm_up: int, repeat: int = 1) -> list[float]:
        if self.left == 0:
            raise SideError("out of memory")
        self.left = None if self.left is None else self.left - 1
        return [count * self.per_text_s] * repeat


def _run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: Mapping[str, int]
) -> tuple[dict[str, Any], list[FakeWorker]]:
    """Measure three sides, of which ``broken`` fail at an order (-1: cannot be loaded)."""
    speeds = {REFERENCE: 0.01, "fast": 0.002, "late": 0.005}
    sides = [Side(name=n, title=n, setting="", peer="", after="export") for n in speeds]
    started: list[FakeWorker] = []

    def start(side: Side, _python: Path, _job: Path, _log: Path) -> FakeWorker:
        if broken.get(side.name) == -1:
            raise SideError("no such engine")
        started.append(FakeWorker(side, speeds.get(side.name, 1), broken.get(side.name)))
        return started[-1]

    monkeypatch.setattr("benchmarks.cpu_speed.measure.Worker", start)
    setup = Setup(
        model=tmp_path,
        pools={"natural": ["text"] * 8},
        calibration=(),
        cache=tmp_path,
        rounds=6,
        least_s=0.5,
    )
    export = Side(name="export", title="", setting="", peer="")
    return measure(sides, [*sides, export], setup), started


def test_a_run_times_all_sides_and_ends_their_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, workers = _run(monkeypatch, tmp_path, {})
    assert result["counts"] == {"single": 1, "natural": 256, "fixed": 256}  # 0.5 s of the fastest
    ratios = [side["ratio"]["fixed"]["median"] for side in result["sides"]]
    assert ratios == pytest.approx([1, 5, 2])
    cosines = [side["cosine"]["mean"] for side in result["sides"]]
    assert [cosine > 1 - 1e-9 for cosine in cosines] == [True, False, False]
    assert [one.side.name for one in workers] == ["export", REFERENCE, "fast", "late"]
    assert all(one.ended for one in workers)


def test_a_run_leaves_a_very_slow_side_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.cpu_speed.checks.SLOWEST", 0.4)
    result, workers = _run(monkeypatch, tmp_path, {})
    reasons = [side.get("failed", "timed") for side in result["sides"]]
    assert [reason.partition(" ")[0] for reason in reasons] == ["timed", "timed", "0.5"]
    assert all(one.ended for one in workers)


@pytest.mark.parametrize("order", [-1, 0, 5], ids=["load", "pilot", "round"])
def test_a_side_that_fails_is_a_row_with_its_reason(
    order: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, workers = _run(monkeypatch, tmp_path, {"fast": order, "export": -1})
    reason = "no such engine" if order == -1 else "out of memory"
    assert [side.get("failed") for side in result["sides"]] == [None, reason, None]
    assert all(one.ended for one in workers)


def test_a_reference_that_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SideError, match="out of memory"):
        _run(monkeypatch, tmp_path, {REFERENCE: 5})


def _result() -> Mapping[str, Any]:
    counts = {"natural": 400, "fixed": 64, "single": 1}
    times = {REFERENCE: _times(1.0), "fast": _times(0.25), "slow": _times(2.0)}
    measured = [
        {
            "name": name,
            "title": name,
            "setting": "defaults",
            "versions": {"maker": "1.0", "runtime": "2.0"},
            "cosine": {"mean": 0.99912, "min": 0.98},
        }
        | figures(times, name, counts)
        for name in times
    ]
    missing = {"name": "bad", "title": "bad", "setting": "", "failed": "no such engine"}
    return {
        "date": "2026-01-31",
        "options": "--stsb DIR",
        "environment": {"cpu": "A CPU", "cpu_count": 2, "python": "3.11"},
        "load_before": 0.014,
        "texts": "STSb test",
        "rounds": 6,
        "counts": counts,
        "batch_size": 32,
        "singles": 20,
        "compared": 512,
        "sides": [missing, *measured],
    }


def test_the_page_sorts_by_natural_lengths_and_lists_what_is_missing() -> None:
    page = render(json.loads(json.dumps(_result())))
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:5]] == ["| fast", f"| {REFERENCE}", "| slow"]
    assert rows[2] == (
        "| fast | 4.00x [4.00, 4.00] | 200 | 4.00x [4.00, 4.00] | 8192 | 4.00x [4.00, 4.00] "
        "| 5.00 | 0.99912 | 0.98000 |"
    )
    assert "- bad: no such engine\n" in page
    assert "python -m benchmarks.cpu_speed --stsb DIR\n" in page
    assert "A CPU, 2 cores" in page
    assert "took 8.00 to 8.00 s and 4.00 to 4.00 s" in page
    assert "maker 1.0, runtime 2.0 |" in page
    assert "- At 128 tokens fast has the highest ratio, 4.00x, apart from all others; next" in page
    assert "the median of 120 calls" in page
    assert "\n\n\n" not in page


def _side(name: str, natural: float, low: float, high: float, cosine: float = 1.0) -> Any:
    ratio = {"median": natural, "ci95": [low, high]}
    ratios = dict.fromkeys(("natural", "fixed", "single"), ratio)
    return {"name": name, "title": name, "ratio": ratios, "cosine": {"mean": cosine}}


def test_who_comes_first_is_what_the_figures_say() -> None:
    ours, theirs = _side("ours_int8", 2.0, 1.9, 2.1, 0.99), _side("theirs_int8", 3, 2.9, 3.1, 0.98)
    said = findings([ours, theirs])
    assert said[0] == (
        "At natural lengths theirs_int8 has the highest ratio, 3.00x, apart from all others; "
        "next is ours_int8 at 2.00x."
    )
    assert said[3] == (
        "Of the int8 sides ours_int8 stays closest to fp32, mean cosine 0.99000; the furthest is "
        "theirs_int8, 0.98000."
    )
    ours["ratio"]["fixed"] = {"median": 4.0, "ci95": [3.0, 4.1]}
    assert findings([ours, theirs])[1] == (
        "At 128 tokens ours_int8 has the highest ratio, 4.00x, not told apart from theirs_int8: "
        "their intervals overlap."
    )
    theirs["ratio"]["fixed"] = {"median": 2.0, "ci95": None}
    assert "is not known" in findings([ours, theirs])[1]
    assert len(findings([ours])) == 3


def test_a_ratio_without_an_interval_stands_alone() -> None:
    result = json.loads(json.dumps(_result()))
    result["sides"] = [side for side in result["sides"] if side["name"] != "bad"]
    for side in result["sides"]:
        side["ratio"]["natural"]["ci95"] = None
    page = render(result)
    assert "| fast | 4.00x | 200 |" in page
    assert "Not measured" not in page


def test_sides_have_names_of_their_own_and_what_they_need_exists() -> None:
    sides = all_sides([Path("somewhere/fp32"), Path("somewhere/int8")])
    names = [side.name for side in sides]
    assert len(names) == len(set(names))
    assert names[0] == REFERENCE
    assert {"int8_onnxruntime", "int8_openvino", "fp32_fastembed"} <= set(names)
    scripts = Path(worker.__file__).parent
    for side in sides:
        assert (scripts / f"{side.peer}.py").is_file()
        assert side.requirements is None or side.requirements.is_file()
        assert side.after is None or side.after in names


def test_only_keeps_the_reference_and_names_are_checked() -> None:
    sides = all_sides([Path("fp32")])
    assert [side.name for side in wanted(sides, ["fp32_openvino"])] == [REFERENCE, "fp32_openvino"]
    assert wanted(sides, []) == sides
    with pytest.raises(SystemExit, match=r"--only torch: the sides are torch_fp32, "):
        wanted(sides, ["torch"])


def test_the_command_on_the_page_names_no_directory() -> None:
    values = {"stsb": Path("/home/me"), "only": ["onnx_fp32"], "quick": True, "rounds": 15}
    assert options(argparse.Namespace(**values)) == "--stsb DIR --only onnx_fp32 --quick"
    values = {"stsb": None, "only": [], "quick": False, "rounds": 9}
    assert options(argparse.Namespace(**values)) == "--rounds 9"
