"""Dockerfile.trt and docs/compose.yaml against this tree, without a Docker engine."""

import ast
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from pipeline.bundle.manifest import TRITON

DockerfileParser: Any = pytest.importorskip("dockerfile_parse").DockerfileParser

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile.trt"
COMPOSE = ROOT / "docs" / "compose.yaml"


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every instruction, continuation lines joined, with the stage it is in."""
    copy = tmp_path_factory.mktemp("docker") / "Dockerfile"
    copy.write_bytes(DOCKERFILE.read_bytes())
    stage, found = "", []
    for item in DockerfileParser(str(copy)).structure:
        if item["instruction"] == "FROM":
            stage = item["value"].rsplit(" AS ", 1)[1]
        if item["instruction"] != "COMMENT":
            found.append({**item, "stage": stage})
    return found


def values(instructions: list[dict[str, Any]], name: str, stage: str | None = None) -> list[str]:
    return [
        item["value"]
        for item in instructions
        if item["instruction"] == name and stage in (None, item["stage"])
    ]


def is_let_through(path: str) -> bool:
    """Whether .dockerignore, a list of exceptions to ``*``, keeps the path."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return f"!{path.split('/', maxsplit=1)[0]}" in lines


def test_stages(instructions: list[dict[str, Any]]) -> None:
    """The last stage is what ``docker build`` makes without ``--target``."""
    stages = [value.rsplit(" AS ", 1)[1] for value in values(instructions, "FROM")]
    assert stages == ["base", "wheel", "serve", "runtime"]


def test_what_is_copied_is_there(instructions: list[dict[str, Any]]) -> None:
    sources = []
    for value in values(instructions, "COPY"):
        *paths, _ = value.split()
        sources += paths
    for value in values(instructions, "RUN"):
        for mount in re.findall(r"--mount=(\S+)", value):
            options = dict(option.split("=", 1) for option in mount.split(","))
            if "from" not in options:
                sources.append(options["source"])
    assert {"pipeline", "conf", "constraints.txt", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_let_through(source), f"{source} is kept out by .dockerignore"


def test_mounts_from_stages_exist_there(instructions: list[dict[str, Any]]) -> None:
    stages = {item["stage"] for item in instructions} - {""}
    for item in instructions:
        for stage, path in re.findall(r"from=(\w+),source=([^,\s]+)", item["value"]):
            assert stage in stages
            made = " ".join(values(instructions, "RUN", stage))
            assert re.search(rf"(> |--wheel-dir ){path}\b", made), f"{stage} does not write {path}"


def test_python_in_the_commands_compiles(instructions: list[dict[str, Any]]) -> None:
    programs = [
        program
        for value in values(instructions, "RUN")
        for program in re.findall(r'python3? -c "(.*?)"(?: |$)', value)
    ]
    assert len(programs) == 4
    for program in programs:
        ast.parse(program)


@pytest.mark.parametrize("stage", ["runtime", "serve"])
def test_nobody_is_root(stage: str, instructions: list[dict[str, Any]]) -> None:
    assert values(instructions, "USER", stage) == ["1000:1000"]
    last = [i["instruction"] for i in instructions if i["stage"] == stage][-4:]
    assert "RUN" not in last[last.index("USER") :]


def test_images_are_of_one_release_and_can_be_pinned(instructions: list[dict[str, Any]]) -> None:
    arguments = dict(value.split("=", 1) for value in values(instructions, "ARG", ""))
    outside = [v.split()[0] for v in values(instructions, "FROM") if "/" in v.split()[0]]
    assert outside == [
        "nvcr.io/nvidia/tensorrt:${RELEASE}-py3${TENSORRT_DIGEST}",
        "nvcr.io/nvidia/tritonserver:${RELEASE}-py3${TRITON_DIGEST}",
    ]
    assert re.fullmatch(r"\d\d\.\d\d", arguments.pop("RELEASE"))
    assert arguments == {"TENSORRT_DIGEST": "", "TRITON_DIGEST": ""}


# Versions: pyproject.toml and constraints.txt say them, everything else agrees.


def pinned(name: str, file: str = "constraints.txt") -> str:
    lines = (ROOT / file).read_text().splitlines()
    (version,) = (line.split("==")[1] for line in lines if line.startswith(f"{name}=="))
    return version


def test_tensorrt_of_the_image_is_what_pyproject_takes(instructions: list[dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirement, _gpu = map(Requirement, project["optional-dependencies"]["tensorrt"])
    arguments = dict(value.split("=", 1) for value in values(instructions, "ARG", ""))
    docs = (ROOT / "docs" / "docker.md").read_text()
    table = dict(re.findall(r"^\| `(\d\d\.\d\d)` \| ([\d.]+) \|", docs, re.MULTILINE))
    assert arguments["RELEASE"] in table
    for version in table.values():
        assert requirement.specifier.contains(version)
    check = " ".join(values(instructions, "RUN", "runtime"))
    low, high = re.search(r"\((\d+, \d+)\) <= .*? < \((\d+),\)", check).groups()  # type: ignore[union-attr]
    specifiers = {s.operator: s.version for s in requirement.specifier}
    assert specifiers == {">=": low.replace(", ", "."), "<": high}


def test_server_and_tests_tokenize_with_the_pinned_version(
    instructions: list[dict[str, Any]],
) -> None:
    (run,) = values(instructions, "RUN", "serve")
    assert "--constraint /tmp/constraints.txt tokenizers numpy" in run
    assert pinned("tokenizers", "tests/helpers/triton_requirements.txt") == pinned("tokenizers")


def test_hadolint() -> None:
    """The linter's own word, with the exceptions that the file states."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Compose and the commands.


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose: Any = pytest.importorskip("compose_spec").PyCompose
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", COMPOSE.read_text())  # the defaults, as Compose does
    compose.from_yaml(json.dumps(yaml.safe_load(text))).to_spec()  # refuses unknown keys
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def test_compose_builds_the_stages_of_the_dockerfile(
    services: dict[str, Any], instructions: list[dict[str, Any]]
) -> None:
    stages = {item["stage"] for item in instructions}
    for service in (one for one in services.values() if "build" in one):
        context = (COMPOSE.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]) == DOCKERFILE
        assert service["build"]["target"] in stages


def test_compose_serves_the_directory_that_triton_reads(
    services: dict[str, Any], instructions: list[dict[str, Any]]
) -> None:
    (command,) = values(instructions, "CMD", "serve")
    assert f"--model-repository=/bundle/{TRITON}" in json.loads(command)
    assert services["triton"]["volumes"][0].endswith(":/bundle:ro")


def test_compose_bounds_the_bodies_that_triton_gets(services: dict[str, Any]) -> None:
    """A body of 6 MB ends Triton 2.51: HTTP comes through the front alone."""
    front = services["front"]
    mounted, _, _ = front["volumes"][0].partition(":")
    conf = (COMPOSE.parent / mounted).read_text()
    (limit,) = re.findall(r"client_max_body_size (\d+)m;", conf)
    assert int(limit) < 6
    assert "proxy_pass http://triton:8000;" in conf
    (listens,) = re.findall(r"listen (\d+);", conf)
    assert [port.rpartition(":")[2] for port in front["ports"]] == [listens]
    inner = {port.rpartition(":")[2] for port in services["triton"]["ports"]}
    assert not inner & {"8000", "8001"}


def test_compose_gives_triton_the_time_it_takes_to_end(services: dict[str, Any]) -> None:
    """Its --exit-timeout-secs is 30 where nothing else is said; Docker kills after 10 s."""
    assert int(services["triton"]["stop_grace_period"].removesuffix("s")) > 30


@pytest.mark.slow
def test_pipeline_command_composes(instructions: list[dict[str, Any]]) -> None:
    """The default command names choices that exist."""
    (entry,), (command,) = (values(instructions, name, "runtime") for name in ("ENTRYPOINT", "CMD"))
    assert json.loads(entry) == ["python", "-m", "pipeline"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *json.loads(command), "--cfg", "job"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
