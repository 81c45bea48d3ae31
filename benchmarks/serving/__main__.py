"""Put a bundle's two servers under load: Triton, and docs/server.py, a Batcher over HTTP.

    python -m benchmarks.serving artifacts/minilm/int8

16 clients send 200 texts each; 200 requests of 32 long texts are abandoned and then one sentence is
sent; SIGTERM comes while 16 clients ask. Prints a table of each. Linux; Triton from .triton/.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks.serving.abandon import Abandoned, abandon
from benchmarks.serving.clients import Batched, Form, Load, Triton, over_http, put_under_load
from benchmarks.serving.terminate import Ended, terminate
from benchmarks.serving.triton import NoTritonError, counts, start_triton, with_stand_in
from pipeline.bundle.engines import open_parent
from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.runtime import load
from pipeline.text.datasets import load_dataset
from pipeline.vectors import FloatArray

SERVER = Path(__file__).parents[2] / "docs" / "server.py"
LONG = "a long text of many ordinary words that goes on and on " * 40


def main() -> int:
    """Measure and print."""
    options = _parser().parse_args()
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample)).evaluation
    texts = list(islice(cycle(sample), options.clients * options.requests))
    for name in options.only or ("batcher", "triton"):
        engine = "onnxruntime" if name == "triton" else "auto"  # what the server takes, too
        expected = load(options.bundle, engine=engine).encode(texts)
        try:
            with _started(name, options) as (process, port, form):
                _measure(name, process, port, form, texts, expected, options)
        except NoTritonError as error:
            print(f"triton: not measured: {error}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", choices=("batcher", "triton"), action="append")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200, help="of each client")
    parser.add_argument("--abandoned", type=int, default=200)
    parser.add_argument("--wait-ms", type=float, default=2.0, help="the Batcher's")
    parser.add_argument("--delay-us", type=int, help="Triton's, in place of the bundle's")
    parser.add_argument("--instances", type=int, help="encoders in Triton, in place of one")
    parser.add_argument("--anew", action="store_true", help="a connection a request, as nginx does")
    parser.add_argument("--load-only", action="store_true", help="nothing abandoned, no SIGTERM")
    return parser


@contextmanager
def _started(
    name: str, options: argparse.Namespace
) -> Iterator[tuple["subprocess.Popen[bytes]", int, Form]]:
    form: Form
    with tempfile.TemporaryDirectory() as scratch:
        if name == "triton":
            repository = with_stand_in(
                options.bundle,
                Path(scratch, "repository"),
                delay_us=options.delay_us,
                instances=options.instances,
            )
            process, port = start_triton(repository, Path(scratch))
            form = Triton(model_name(options.bundle))
        else:
            process, port = start_batcher(options.bundle, wait_ms=options.wait_ms)
            form = Batched()
        try:
            yield process, port, form
        finally:
            process.terminate()
            process.wait(90)
            if process.stdout is not None:
                process.stdout.close()


def model_name(bundle: Path) -> str:
    """Return how a bundle's model is called."""
    return str(open_parent(bundle).manifest["model"]["name"])


def start_batcher(bundle: Path, *, wait_ms: float = 2.0) -> tuple["subprocess.Popen[bytes]", int]:
    """Start ``docs/server.py`` and return it and its port once it is ready."""
    process = subprocess.Popen(
        [sys.executable, SERVER, bundle, "--port", "0", "--wait-ms", str(wait_ms)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = process.stdout.readline().decode()
    if not said.startswith("ready on "):
        process.wait()
        process.stdout.close()
        raise RuntimeError(f"{SERVER.name} did not start")
    return process, int(said.rsplit(":", 1)[1])


def _measure(
    name: str,
    process: "subprocess.Popen[bytes]",
    port: int,
    form: Form,
    texts: Sequence[str],
    expected: FloatArray,
    options: argparse.Namespace,
) -> None:
    connect, clients = over_http(port, form, anew=options.anew), options.clients
    put_under_load(connect, texts[: 4 * clients], expected, clients=clients)  # warm
    encoder = f"{model_name(options.bundle)}_encoder"
    before, cpu_s = counts(port, encoder) if name == "triton" else None, cpu_seconds(process.pid)
    load_ = put_under_load(connect, texts, expected, clients=clients)
    cpu_s = cpu_seconds(process.pid) - cpu_s
    say = partial(print, f"{name}:", flush=True)
    say(f"{_say_load(load_)}; {1000 * cpu_s / len(texts):.1f} ms of CPU a request")
    if before is not None:
        done, batches = (b - a for a, b in zip(before, counts(port, encoder), strict=True))
        say(f"{done} texts in {batches} batches, {done / batches:.2f} a batch")
    if options.load_only:
        return
    if options.abandoned:
        gone = abandon(port, form, LONG, requests=options.abandoned, texts_each=32)
        say(_say_abandoned(gone))
    ended = terminate(process, connect, texts, expected, clients=clients)
    say(_say_ended(ended))


def _say_load(load_: Load) -> str:
    return (
        f"{load_.answered} answered in {load_.seconds:.1f} s, "
        f"{load_.answered / load_.seconds:.0f} requests/s, p50 {load_.quantile_ms(0.5):.1f} ms, "
        f"p99 {load_.quantile_ms(0.99):.1f} ms, lowest cosine {load_.lowest_cosine:.7f}, "
        f"{len(load_.refused)} refused, {len(load_.lost)} lost"
    )


def _say_abandoned(gone: Abandoned) -> str:
    behind = "never answered" if gone.behind_s is None else f"answered in {gone.behind_s:.2f} s"
    refusals = f", after {gone.refusals} refusals ({gone.said})" if gone.refusals else ""
    return (
        f"a sentence behind {gone.requests} abandoned requests of {gone.texts_each} long texts: "
        f"{behind}{refusals}; {gone.before_s:.3f} s before them"
    )


def _say_ended(ended: Ended) -> str:
    words = "; ".join(sorted({*ended.load.refused, *ended.load.lost}))
    return (
        f"SIGTERM under load: {ended.load.answered} answered, {len(ended.load.refused)} refused, "
        f"{len(ended.load.lost)} lost, lowest cosine {ended.load.lowest_cosine:.7f}, exit "
        f"{ended.exit_code} after {ended.seconds:.1f} s ({words})"
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of those below it (proc(5))."""
    parents, seconds = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks = int(fields[11]) + int(fields[12])
            seconds[int(entry.name)] = ticks / os.sysconf("SC_CLK_TCK")

    def below(process: int) -> float:
        return seconds.get(process, 0.0) + sum(below(p) for p, q in parents.items() if q == process)

    return below(pid)


if __name__ == "__main__":
    raise SystemExit(main())
