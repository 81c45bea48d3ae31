"""The command that goes on with a night is one that Hydra's own parser takes."""

import pytest
from hydra._internal.utils import get_args_parser

from pipeline.nightly.night import _resuming

OPTIONS = ["--config-dir", "/a=b/conf", "-cn", "mine"]


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ([], []),
        (["models=[a]", "output=x"], ["models=[a]", "output=x"]),
        (OPTIONS, []),
        (["models=[a]", "output=x", *OPTIONS], ["models=[a]", "output=x"]),
        ([*OPTIONS, "models=[a]"], ["models=[a]"]),
        ([*OPTIONS[:2], "models=[a]", "output=x", *OPTIONS[2:]], ["models=[a]", "output=x"]),
        (["--config-dir=/a=b/conf", "+x=1", "~y", "--config-name=mine"], ["+x=1", "~y"]),
    ],
)
@pytest.mark.parametrize("older", [[], ["night=20261120T020000Z"]])
def test_hydra_takes_it(given: list[str], overrides: list[str], older: list[str]) -> None:
    again = _resuming([*older, *given], "20261121T020000Z")
    parsed = get_args_parser().parse_args(again)
    assert parsed.overrides == ["night=20261121T020000Z", *overrides]
    assert [each for each in again if not each.startswith("night=")] == given
    if any(argument.endswith("/conf") for argument in given):
        assert (parsed.config_dir, parsed.config_name) == ("/a=b/conf", "mine")
