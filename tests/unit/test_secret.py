"""Keys, tokens and passwords are taken from where they belong, and show up nowhere."""

import base64
import builtins
import json
import logging
import traceback

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ragops import cli, registration
from ragops.errors import RagopsError, StackError
from ragops.ragflow import api, secret
from ragops.ragflow.access import Access
from ragops.ragflow.answers import Request
from ragops.ragflow.register import Wanted
from ragops.ragflow.secret import NONE, Secret, hide
from ragops.render import as_json
from ragops.stack import Ragflow, Stack
from ragops.testing.contract import RagflowServer
from ragops.testing.stub import Behaviour, StubReranker

CANARY = "canary-5f1e0c"
TOKEN, PASSWORD, KEY = f"ragflow-{CANARY}-token", f"{CANARY} password", f"{CANARY}-key"


class TestSource:
    def test_file_goes_before_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("A_KEY", "from-environment")
        assert secret.find("A_KEY").reveal() == "from-environment"
        file = tmp_path / "key"
        file.write_text("from-file\n")
        assert secret.find("A_KEY", file).reveal() == "from-file"

    def test_nothing_given(self, monkeypatch):
        monkeypatch.delenv("A_KEY", raising=False)
        assert not secret.find("A_KEY")

    @pytest.mark.parametrize("text", ["", "two words", "zwei\nzeilen", "größe", "tab\tkey"])
    def test_what_no_header_can_hold_is_refused_and_not_shown(self, tmp_path, text):
        file = tmp_path / "key"
        file.write_text(f"{text}")
        with pytest.raises(StackError, match="holds no key") as caught:
            secret.find("A_KEY", file)
        assert not text or text not in str(caught.value)

    def test_file_that_is_not_there(self, tmp_path):
        with pytest.raises(StackError, match="no key can be read"):
            secret.find("A_KEY", tmp_path / "none")

    def test_password_is_asked_for_on_a_terminal_alone(self, monkeypatch):
        monkeypatch.delenv("A_PASSWORD", raising=False)
        monkeypatch.setattr("getpass.getpass", lambda _: "typed")
        assert not secret.password("A_PASSWORD")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        assert secret.password("A_PASSWORD").reveal() == "typed"

    def test_password_may_have_spaces(self, monkeypatch):
        monkeypatch.setenv("A_PASSWORD", " one two ")
        assert secret.password("A_PASSWORD").reveal() == " one two "


def test_secret_has_no_text_of_its_own():
    held = Secret(CANARY)
    assert CANARY not in f"{held} {held!r} {[held]} {Access(token=held)!r} {Wanted('m', 'u', 1, key=held)!r}"
    with pytest.raises(TypeError):
        json.dumps({"key": held})


def test_hiding_takes_the_longest_first_and_leaves_placeholders():
    assert hide("abcdef and abcd, x", (Secret("abcd"), Secret("abcdef"), Secret("x"))) == "*** and ***, x"


@pytest.mark.parametrize(
    "url",
    [f"http://user:{CANARY}@host", f"ftp://{CANARY}", f"http://{CANARY}@host:1", "http://", "nonsense://x"],
)
def test_address_with_a_password_is_refused_and_not_shown(url):
    with pytest.raises(StackError) as caught:
        api.address(url)
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
    assert api.address(given) == plain


@pytest.fixture
def keys(monkeypatch):
    """A private key of our own, in place of RAGFlow's."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    monkeypatch.setattr(api, "public_key", lambda: pem)
    return private


def test_password_is_sent_encrypted_as_the_pages_send_it(keys):
    sent = base64.b64decode(api.encrypted(Secret(PASSWORD)))
    assert base64.b64decode(keys.decrypt(sent, padding.PKCS1v15())).decode() == PASSWORD


def test_ragflows_own_key_is_the_one_that_ships():
    assert load_pem_public_key(api.public_key()).key_size == 2048


def shown(capsys, caplog, call):
    """Everything that anybody could read of a call: what it gives back or raises, and what was printed."""
    caplog.set_level(logging.DEBUG)
    try:
        found = call()
        texts = [str(found), repr(found), as_json(found)]
    except RagopsError as error:
        texts = [str(error), repr(error), as_json(error), "".join(traceback.format_exception(error))]
    out, err = capsys.readouterr()
    return "\n".join([*texts, out, err, caplog.text])


@pytest.mark.parametrize("release", ["v0.20.5", "v0.25.6", "v0.26.0", "v0.27.0"])
@pytest.mark.parametrize("case", ["right", "wrong key", "wrong login", "wrong model", "nobody", "echo"])
def test_no_secret_is_ever_shown(release, case, keys, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    known = Stack(ragflow=Ragflow(release=release))
    ours = "right" if case != "wrong key" else "another-key"
    with (
        StubReranker(Behaviour(model="m", api_key=KEY if ours == "right" else ours)) as stub,
        RagflowServer(release, limit=60, token=TOKEN, password=PASSWORD, private_key=keys) as server,
    ):
        password = f"{CANARY} wrong" if case == "wrong login" else PASSWORD
        token = Secret("") if case == "wrong login" else Secret(TOKEN)
        access = Access(token, server.world.email, Secret(password), login=True)
        wanted = Wanted(
            "m" if case != "wrong model" else f"{CANARY}-model", stub.base_url, 8, key=Secret(KEY)
        )
        url = "http://127.0.0.1:9" if case == "nobody" else server.url
        if case == "echo":  # a server that says back what it was sent
            monkeypatch.setattr("ragops.testing.contract.upstream.QUESTIONS", {"v0.17.0": (KEY, (TOKEN,))})
            monkeypatch.setattr(
                "ragops.testing.contract.upstream._payload",
                lambda *_: {"model": KEY, "query": PASSWORD, "documents": [TOKEN]},
            )

        def call(verb):
            return lambda: verb(known, access, url=url, wanted=wanted)

        text = shown(capsys, caplog, call(registration.register))
        text += shown(capsys, caplog, call(registration.unregister))
    files = [one.read_text() for one in tmp_path.rglob("*") if one.is_file()]
    for hidden in (TOKEN, PASSWORD, KEY, password):
        assert hidden not in text
        assert not any(hidden in one for one in files)


def test_no_argument_of_the_command_takes_a_secret():
    for name in ("register", "unregister"):
        with pytest.raises(SystemExit):
            cli.parser().parse_args([name, "--help"])
        flags = [flag for one in cli.ragflow.VERBS[name].options for flag in one[0]]
        secrets = [flag for flag in flags if any(word in flag for word in ("token", "password", "key"))]
        assert all(flag.endswith("-file") for flag in secrets), secrets


def test_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StackError, match="needs the package cryptography") as caught:
        api.encrypted(Secret(CANARY))
    assert "ragops-rerank[login]" in caught.value.hint


def test_no_proxy_and_no_redirect_gets_the_token(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with RagflowServer("v0.27.0") as server, api.Api(server.url, NONE) as opened:
        assert opened.ask(Request("GET", "/api/v1/system/ping")).text == "pong"
