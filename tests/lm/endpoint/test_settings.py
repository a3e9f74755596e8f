"""Where a server is: spec strings and YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.errors import ConfigError
from llmrec.lm.endpoint.settings import BudgetSettings, EndpointSettings

SIGNED_IN = ":".join(["user", "sk-secret@"])


@pytest.mark.parametrize(
    ("spec", "url", "model"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1", None),
        ("endpoint:http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1", None),
        ("https://host/openai/v1/#org/model", "https://host/openai/v1", "org/model"),
    ],
)
def test_a_spec_names_url_and_model(spec: str, url: str, model: str | None) -> None:
    settings = EndpointSettings.from_spec(spec)
    assert (settings.base_url, settings.model) == (url, model)


def test_a_file_has_all_settings(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.yaml"
    file.write_text(
        "base_url: https://host/v1\nmodel: m\ntimeout_s: 5\nbudget: {max_tokens: 100, price_per_million_input: 2}\n",
        encoding="utf-8",
    )
    settings = EndpointSettings.from_spec(f"endpoint:{file}")
    assert settings.timeout_s == 5
    assert settings.budget == BudgetSettings(max_tokens=100, price_per_million_input=2)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("base_url: https://host\napi_key: sk-secret\n", "api_key: Extra inputs"),
        ("base_url: https://host\nmax_retries: -1\n", "max_retries: "),
        ("base_url: https://host\nbudget: {max_cost: 1}\n", "max_cost needs price_per_million_input"),
        ("base_url: ftp://host\n", "must look like http"),
        (f"base_url: https://{SIGNED_IN}host/v1\n", "no user, password"),
        ("base_url: https://host/v1?key=sk-secret\n", "no user, password, query"),
        ("model: m\n", "base_url: Field required"),
        ("- a\n", "must be YAML with base_url"),
        ("a: [\n", "must be YAML with base_url"),
    ],
)
def test_wrong_settings_are_named_and_no_secret_is_shown(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "endpoint.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        EndpointSettings.from_spec(str(file))
    assert fault in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("http://host:abc", "port"),
        ("http://host:99999/v1", "port"),
        ("http://a b", "host"),
        ("http://a$b/v1", "host"),
        ("http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_a_wrong_port_or_host_is_named(spec: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"base_url: .*{fault}"):
        EndpointSettings.from_spec(spec)


@pytest.mark.parametrize("url", ["http://[::1]:8080/v1", "http://my_host:1/v1", "https://bücher.example/v1"])
def test_unusual_hosts_are_taken(url: str) -> None:
    assert EndpointSettings.from_spec(url).base_url == url


@pytest.mark.parametrize("spec", ["localhost:8080", f"http://{SIGNED_IN}host", "missing.yaml", ""])
def test_what_is_no_endpoint_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointSettings.from_spec(spec)
    assert "sk-secret" not in str(caught.value)
