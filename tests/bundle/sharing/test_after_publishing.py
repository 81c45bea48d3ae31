"""Sharing by config: wrong settings stop a run at its start, a failed push leaves the bundle."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_hub import go_online, serve

from pipeline.__main__ import run_and_share
from pipeline.bundle.verification import require_verified
from pipeline.config import HubConfig, OciConfig, PipelineConfig, PublishConfig, SigningConfig
from pipeline.contracts import Outcome, Report
from pipeline.errors import ConfigError, PublishError, ShareError
from pipeline.flow.run import run


def configured(tmp_path: Path, **publish: Any) -> PipelineConfig:
    config = PipelineConfig(
        artifacts_dir=str(tmp_path / "artifacts"), publish=PublishConfig(**publish)
    )
    config.model.name, config.precision.name = "tiny", "fp32"
    return config


@pytest.mark.parametrize(
    ("publish", "error", "named"),
    [
        (
            {"signing": SigningConfig(key="missing.pem")},
            PublishError,
            r"publish\.signing\.key=miss",
        ),
        ({"hub": HubConfig(repo_id="no owner")}, ShareError, "hf://no owner@main: not a reference"),
        ({"oci": OciConfig(reference="tiny")}, ShareError, "oci://tiny: not a reference"),
    ],
)
def test_wrong_settings_stop_the_run_at_its_start(
    publish: Any, error: type[Exception], named: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=named):
        run(configured(tmp_path, **publish))
    assert not (tmp_path / "artifacts").exists()


def test_what_is_not_validated_is_not_to_be_pushed(tmp_path: Path) -> None:
    config = configured(tmp_path, hub=HubConfig(repo_id="me/tiny"))
    config.validate.enabled = False
    with pytest.raises(ConfigError, match=r"publish\.hub.*validate=default"):
        run(config)


@pytest.fixture
def published(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that the run is made to have just published."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tiny" / "fp32")
    outcome = Outcome(
        published=True, path=bundle, report=Report(passed=True, failed_gates=(), data={})
    )
    monkeypatch.setattr("pipeline.flow.run.run", lambda _config: outcome)
    monkeypatch.setattr("pipeline.report.text.render_text", lambda _outcome: "the outcome")
    go_online(monkeypatch)
    return bundle


def test_pushed(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        config = configured(tmp_path, hub=HubConfig(repo_id="me/tiny", private=False))
        assert run_and_share(config) == 0
        commit, files = hub.files("me/tiny", "main")
    assert files["manifest.json"] == (published / "manifest.json").read_bytes()
    assert hub.private == {"me/tiny": False}
    assert capsys.readouterr().out.splitlines() == ["the outcome", f"pushed hf://me/tiny@{commit}"]


def test_a_push_that_fails(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path, oci=OciConfig(reference="127.0.0.1:9/me/tiny:fp32"))
    with pytest.raises(ShareError) as raised:
        run_and_share(config)
    message = str(raised.value)
    assert message.startswith("published here, not pushed: oci://127.0.0.1:9/me/tiny:fp32: ")
    assert message.endswith(
        f"push it with python -m pipeline.share push {published} oci://127.0.0.1:9/me/tiny:fp32"
    )
    assert capsys.readouterr().out == "the outcome\n"
    require_verified(published)


def test_a_rejected_run_is_not_shared(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.flow.run import run as published_run

    outcome = replace(published_run(PipelineConfig()), published=False)
    monkeypatch.setattr("pipeline.flow.run.run", lambda _config: outcome)
    config = configured(tmp_path, oci=OciConfig(reference="127.0.0.1:9/me/tiny:fp32"))
    assert run_and_share(config) == 2
