"""Who reads: credentials as Google's rules find them, a project, and what is missing told in one line."""

from __future__ import annotations

import json
import runpy
import socket
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from booru_embed_core.posts import bigquery_access
from booru_embed_core.posts.bigquery_access import BigQueryError, BigQueryUnreachableError, open_access
from tests.emulator_helpers import answering_server


def test_missing_credentials_are_an_error_that_says_how_to_get_some(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(BigQueryError, match=r"no Google credentials .*gcloud auth application-default login") as raised:
        open_access("reader").__enter__()
    assert "\n" not in str(raised.value)


def test_credentials_without_a_project_are_an_error(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (bare / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bare / "key.json"))
    with pytest.raises(BigQueryError, match="no Google Cloud project to read with"):
        open_access().__enter__()


def service_account(home: Path, monkeypatch: pytest.MonkeyPatch, token_port: int) -> None:
    """Lets Google's rules find the key of an account whose tokens come from this port."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "project_id": "reader",
        "client_email": "someone@example.com",
        "private_key": private.decode(),
        "token_uri": f"http://127.0.0.1:{token_port}/token",
    }
    (home / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "key.json"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_credentials_that_nobody_answers_are_an_error(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    service_account(bare, monkeypatch, nobody)
    with pytest.raises(BigQueryUnreachableError, match=r"no answer from Google .*check the network") as raised:
        open_access().__enter__()
    assert "\n" not in str(raised.value)


def test_credentials_that_google_refuses_are_another_error(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering_server(lambda path: (401, {"error": "invalid_grant"})) as port:
        service_account(bare, monkeypatch, port)
        with pytest.raises(BigQueryError, match=r"Google refuses the credentials .*renew the key file") as raised:
            open_access().__enter__()
    assert not isinstance(raised.value, BigQueryUnreachableError)


def test_credentials_give_a_client_and_their_project(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
    with answering_server(lambda path: (200, token)) as port:
        service_account(bare, monkeypatch, port)
        for named, wanted in ((None, "reader"), ("another", "another")):
            with open_access(named) as access:
                assert access.project == wanted


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(ImportError, match=r"pip install 'booru-embed\[bigquery\]'"):
        runpy.run_path(bigquery_access.__file__)
