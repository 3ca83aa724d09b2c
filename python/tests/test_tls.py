"""TLS by files, with Python's own client."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

import foreturn
from serving import REQUEST, Server


class Files:
    """An authority, a certificate of it, and keys."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        made, other = self.authority.issue_cert("127.0.0.1", "localhost"), self.authority.issue_cert("127.0.0.1")
        self.certificate, self.key, self.other = folder / "certificate.pem", folder / "key.pem", folder / "other.pem"
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(self.key))
        other.private_key_pem.write_to_path(str(self.other))

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def ask(server: Server, context: ssl.SSLContext, body: Any) -> tuple[int, Any]:
    host, port = server.address.split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    connection.request("POST", "/v1/rank", json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_speaks_tls(config: Path, files: Files, version: ssl.TLSVersion) -> None:
    """And nothing else. Who does not agree on it holds up nobody, also at the end."""
    own = Server(config, "--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    host, port = own.address.split(":")
    silent = socket.create_connection((host, int(port)))
    context = files.trusting()
    context.minimum_version = context.maximum_version = version
    status, ranking = ask(own, context, REQUEST)
    assert status == 200 and len(ranking["ranking"]) == 2
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(own, ssl.create_default_context(), REQUEST)
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        own.ask("/health")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(1000)
    assert ask(own, context, REQUEST)[0] == 200
    start = time.monotonic()
    assert own.end() == 0 and time.monotonic() - start < 15
    silent.close()
    assert "https://" in own.lines[0]


def test_the_packages_client_asks_it(config: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom it trusts is what Python trusts, so an authority of one's own is a file in the environment."""
    own = Server(config, "--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    remote = foreturn.Server(f"https://{own.address}")
    with pytest.raises(foreturn.FileError, match="can't be reached"):
        remote.rank(REQUEST)
    authority = tmp_path / "authority.pem"
    files.authority.cert_pem.write_to_path(str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert foreturn.Server(f"https://{own.address}").rank(REQUEST).complete
    assert own.end() == 0


@pytest.mark.parametrize(("certificate", "key", "says"), [
    ("/nowhere/certificate.pem", "key", "/nowhere/certificate.pem"),
    ("certificate", "/nowhere/key.pem", "/nowhere/key.pem"),
    ("key", "key", "has no certificate"),
    ("certificate", "certificate", "has no private key"),
    ("certificate", "other", "is not that of the key in"),
    ("nonsense", "key", "has no certificate"),
    ("broken", "key", "is not PEM"),
    ("empty", "key", "can't be used"),
    ("certificate", None, "--tls-key"),
    (None, "key", "--tls-certificate"),
])
def test_files_that_do_not_do_are_refused(
    config: Path, files: Files, tmp_path: Path, run: Any, certificate: str | None, key: str | None, says: str
) -> None:
    """Before a model is loaded."""
    for name, text in {
        "nonsense": "hello\n",
        "broken": "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        "empty": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }.items():
        (tmp_path / name).write_text(text)

    def path(name: str) -> str:
        return str(getattr(files, name, tmp_path / name))

    arguments = [*(["--tls-certificate", path(certificate)] if certificate else []), *(["--tls-key", path(key)] if key else [])]
    ended = run("-m", "foreturn", "serve", "--config", str(config), "--listen", "127.0.0.1:0", *arguments)
    assert ended.returncode != 0 and says in ended.stderr, ended.stderr
    assert "panicked" not in ended.stderr
