"""Keys and tokens are read from a file or the environment, and never shown; addresses are checked."""

import json
import logging
import traceback

import pytest

from ragops.cli.output import as_json
from ragops.configuration import Ragflow, Stack
from ragops.errors import RagopsError, StackError
from ragops.ragflow import api
from ragops.ragflow.api import NO_SECRET, Request, Secret, mask, read_secret
from ragops.ragflow.providers import RegistrationSpec
from ragops.stack import registration
from tests.support.contract.api import RagflowServer
from tests.support.stub import Behaviour, StubReranker
from tools.commands import commands

CANARY = "canary-5f1e0c"
TOKEN, KEY = f"ragflow-{CANARY}-token", f"{CANARY}-key"


class TestSource:
    def test_file_goes_before_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("A_KEY", "from-environment")
        assert read_secret("A_KEY").get_secret_value() == "from-environment"
        file = tmp_path / "key"
        file.write_text("from-file\n")
        assert read_secret("A_KEY", file).get_secret_value() == "from-file"

    def test_without_a_file_and_a_variable_it_is_empty(self, monkeypatch):
        monkeypatch.delenv("A_KEY", raising=False)
        assert not read_secret("A_KEY")

    @pytest.mark.parametrize("text", ["", "two words", "zwei\nzeilen", "größe", "tab\tkey"])
    def test_text_that_no_header_can_hold_is_refused_and_not_shown(self, tmp_path, text):
        file = tmp_path / "key"
        file.write_text(f"{text}")
        with pytest.raises(StackError) as caught:
            read_secret("A_KEY", file)
        assert caught.value.code == "secret-refused"
        assert not text or text not in str(caught.value)

    def test_missing_file(self, tmp_path):
        with pytest.raises(StackError) as caught:
            read_secret("A_KEY", tmp_path / "none")
        assert caught.value.code == "secret-refused"


def test_secret_prints_as_stars():
    secret = Secret(CANARY)
    assert CANARY not in f"{secret} {secret!r} {[secret]} {RegistrationSpec('m', 'u', 1, key=secret)!r}"
    with pytest.raises(TypeError):
        json.dumps({"key": secret})


def test_the_longest_secret_is_masked_first_and_placeholders_are_not():
    assert mask("abcdef and abcd, x", (Secret("abcd"), Secret("abcdef"), Secret("x"))) == "*** and ***, x"


@pytest.mark.parametrize(
    "url",
    [f"http://user:{CANARY}@host", f"ftp://{CANARY}", f"http://{CANARY}@host:1", "http://", "nonsense://x"],
)
def test_address_with_a_password_is_refused_and_not_shown(url):
    with pytest.raises(StackError) as caught:
        api.base_url(url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("http://127.0.0.1:9380/", "http://127.0.0.1:9380"),
        ("ragflow.test", "http://ragflow.test"),
        ("https://ragflow.test/login?x=1", "https://ragflow.test"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_address_is_cut_to_scheme_and_host(given, plain):
    assert api.base_url(given) == plain


def shown(capsys, caplog, call):
    """Everything that a call returns, raises, prints or logs."""
    caplog.set_level(logging.DEBUG)
    try:
        result = call()
        texts = [str(result), repr(result), as_json(result)]
    except RagopsError as error:
        texts = [str(error), repr(error), as_json(error), "".join(traceback.format_exception(error))]
    out, err = capsys.readouterr()
    return "\n".join([*texts, out, err, caplog.text])


@pytest.mark.parametrize("release", ["v0.20.5", "v0.24.0", "v0.25.6", "v0.26.0", "v0.27.0"])
@pytest.mark.parametrize("case", ["right", "wrong key", "wrong token", "wrong model", "no server", "echo"])
def test_no_secret_is_ever_shown(release, case, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    known = Stack(ragflow=Ragflow(release=release))
    with (
        StubReranker(Behaviour(model="m", api_key="another-key" if case == "wrong key" else KEY)) as stub,
        RagflowServer(release, limit=60, token=TOKEN) as server,
    ):
        token = f"{CANARY}-wrong" if case == "wrong token" else TOKEN
        model = f"{CANARY}-model" if case == "wrong model" else "m"
        spec = RegistrationSpec(model, stub.base_url, 8, key=Secret(KEY))
        url = "http://127.0.0.1:9" if case == "no server" else server.url
        if case == "echo":  # a server that repeats what it was sent
            monkeypatch.setattr("tests.support.contract.upstream.QUESTIONS", {"v0.17.0": (KEY, (TOKEN,))})
            monkeypatch.setattr(
                "tests.support.contract.upstream._payload",
                lambda *_: {"model": KEY, "query": KEY, "documents": [TOKEN]},
            )

        def call(verb, **more):
            return lambda: verb(known, Secret(token), url=url, **more)

        text = shown(capsys, caplog, call(registration.register, spec=spec))
        text += shown(capsys, caplog, call(registration.unregister))
    files = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    for hidden in (TOKEN, KEY, token):
        assert hidden not in text
        assert not any(hidden in content for content in files)


def test_no_argument_of_the_command_takes_a_secret():
    for name in ("register", "unregister"):
        flags = [flag for parameter in commands()[name].params for flag in parameter.opts]
        secrets = [flag for flag in flags if any(word in flag for word in ("token", "key"))]
        assert all(flag.endswith("-file") for flag in secrets), secrets


def test_no_proxy_and_no_redirect_gets_the_token(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with RagflowServer("v0.27.0") as server, api.Api(server.url, NO_SECRET) as opened:
        assert opened.send(Request("GET", "/api/v1/system/ping")).text == "pong"
