"""Define the command line of ``python -m pipeline.encode``."""

import argparse
from typing import get_args

from pipeline.runtime.output import EmbeddingPrecision
from pipeline.runtime.parts import Share, parse_share
from pipeline.runtime.text_files import FORMATS, STDIN
from pipeline.runtime.vector_files import FORMATS as OUTPUTS


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; what it cannot know is checked where it is used."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.encode",
        description="Encode a file of texts with a published bundle.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory that the pipeline published")
    add("input", metavar="INPUT", help=f"texts: a file, a pattern ('*.csv'), {STDIN}: stdin")
    add("output", metavar="OUTPUT", help="where they go; of several files a directory")
    add("--to", choices=OUTPUTS, help="what to write, where OUTPUT's name does not say")
    add("--ids", metavar="NAME", help="column of the ids (beir: _id; default: the row's number)")
    add("--index", choices=("flat", "hnsw"), default="flat", help="of --to faiss")
    add("--resume", action="store_true", help="go on where a run that was killed had come to")
    add("--shard", type=_share, metavar="I/N", help="do part I of N; N workers share OUTPUT")
    add("--format", choices=FORMATS, help="of INPUT, where its name does not say")
    add("--column", metavar="NAME", help="of the text in jsonl, csv and parquet (default: text)")
    add("--keep", metavar="NAME,…", help="columns to write beside the vectors, into .parquet")
    add("--engine", default="auto", help="as in pipeline.runtime.load (default: %(default)s)")
    add(
        "--batch-size",
        type=_positive,
        metavar="N",
        help="most texts at once (default: the engine's)",
    )
    add("--prompt-name", metavar="NAME", help="one of the model's prompts, such as query")
    add("--prompt", metavar="TEXT", help="put before every text, in place of the model's own")
    add("--truncate-dim", type=_positive, metavar="N", help="keep the first N dimensions")
    add("--normalize", action="store_true", help="scale vectors to length 1")
    add("--precision", choices=get_args(EmbeddingPrecision), default="float32")
    add("--ranges", metavar="FILE", help="for int8 and uint8: an .npy in place of the bundle's")
    add("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    add("--progress", action="store_true", help="show a bar, on a terminal")
    return parser


def _share(text: str) -> Share:
    try:
        return parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected a positive number")
    return number
