"""ragops.toml: defaults, refused values, and that the error has line, reason and remedy."""

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops import configuration
from ragops.configuration import Stack, load, parse
from ragops.errors import StackError
from ragops.reranker.model import hub_source


def refused(text):
    with pytest.raises(StackError) as caught:
        parse(text)
    assert caught.value.hint
    return caught.value


def test_everything_is_optional():
    assert parse("") == Stack()
    assert parse("[network]\n[reranker]\n[ragflow]") == Stack()


def test_defaults_are_safe():
    made = Stack()
    assert made.reranker.publish == "127.0.0.1"
    assert made.network.name > "docker_ragflow"  # else joining moves RAGFlow's default route
    assert made.internal_url == "http://ragflow-vllm-reranker:8000/v1"


def test_values_are_read():
    made = parse('[network]\nname = "x1"\nsubnet = "10.77.0.0/24"\n[ragflow]\ncontainers = ["a1", "b1"]\n')
    assert (made.network.name, made.network.subnet) == ("x1", "10.77.0.0/24")
    assert made.ragflow.containers == ("a1", "b1")


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ('[reranker]\n\nimge = "x"', "ragops.toml:3: unknown key reranker.imge", "did you mean image?"),
        ("[rerankr]\nport = 1", "ragops.toml:1: unknown key rerankr", "did you mean reranker?"),
        ("port = 1", "ragops.toml:1: unknown key port", "remove the key"),
        ("# a\nnetwork.nam = 'x1'", "ragops.toml:2: unknown key network.nam", "did you mean name?"),
    ],
)
def test_unknown_key_names_line_and_nearest(text, where, hint):
    error = refused(text)
    assert error.message == where
    assert error.hint == hint
    assert error.evidence.startswith("known keys: ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("port = -1", "greater than or equal to 1"),
        ("port = true", "valid integer"),
        ("port = 65536", "less than or equal to 65535"),
        ('port = "http"', "valid integer"),
        ('name = "a"', "2 to 63 letters"),
        ('name = "-ab"', "2 to 63 letters"),
        ('name = "ab\\n"', "2 to 63 letters"),
        ('served_name = "a___b"', "RAGFlow splits model names"),
        ('served_name = "a@b"', "RAGFlow splits model names"),
        ('served_name = " "', "RAGFlow splits model names"),
        ('cores = "all"', "CPU list"),
        ('cores = "0-"', "CPU list"),
        ('publish = "localhost"', "IPv4 or IPv6"),
        ('dtype = "int8"', "'auto', 'bfloat16'"),
        ("max_model_len = 31", "greater than or equal to 32"),
        ("kv_cache_gib = 0", "greater than or equal to 1"),
        ("ready_timeout = 9", "greater than or equal to 10"),
        ("memory_gib = 65537", "less than or equal to 65536"),
        ("kv_cache_gib = 0x" + "f" * 5000, "less than or equal to 65536"),
        ('cores = "0-99999999999"', "CPU list"),
        ('compute = "' + "0," * 5000 + '0"', "CPU list"),
        ('image = "-v/:/host"', "image name"),
        ('image = "../vllm"', "image name"),
        ('image = "vllm:latest\\n"', "image name"),
        ('served_name = "--trust-remote-code"', "printable"),
        ('served_name = "a\\u001b[31m"', "printable"),
        (f'served_name = "{"a" * 256}"', "printable"),
        ('model = "a\\u0000b"', "printable"),
        (f'model = "{"a" * 5000}"', "printable"),
        ('publish = "fe80::1%eth0"', "zone"),
        ('kind = "qwen3"', "'qwen3-reranker'"),
        ('instruction = " "', "1 to 1000"),
        ('instruction = "a\\nb"', "one line"),
        ('instruction = "a<|im_end|>b"', "'<|'"),
        (f'instruction = "{"a" * 1001}"', "1 to 1000"),
    ],
)
def test_wrong_reranker_value_names_line_and_reason(line, reason):
    error = refused(f"\n[reranker]\n{line}")
    key = line.partition(" ")[0]
    assert re.match(rf"ragops\.toml:3: reranker\.{key} = .* can't be used", error.message, re.DOTALL)
    assert reason in error.evidence


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('name = "host"', "Docker's own networks"),
        ('name = "bridge"', "Docker's own networks"),
        ('name = "a/b"', "2 to 63 letters"),
        ('subnet = "10.77.0.0/99"', "10.77.0.0/99"),
        ('subnet = "10.77.0.1/24"', "host bits set"),
        ('driver = "--opt"', "driver"),
    ],
)
def test_wrong_network_value(line, reason):
    assert reason in refused(f"[network]\n{line}").evidence


@pytest.mark.parametrize(
    "line",
    ['containers = ["-x"]', 'containers = ["ab\\n"]', 'project = "../x"', f"containers = {['ab'] * 101}"],
)
def test_wrong_ragflow_value(line):
    assert refused(f"[ragflow]\n{line}").code == "value-refused"


@pytest.mark.parametrize(
    "image",
    [
        "vllm-cpu:latest",
        "registry.example.org:5000/group/vllm__cpu-x.y:v0.32.0",
        f"public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo@sha256:{'0' * 64}",
        f"sha256:{'0' * 64}",
        "localhost/vllm",
    ],
)
def test_image_names(image):
    assert parse(f'[reranker]\nimage = "{image}"').reranker.image == image


@pytest.mark.parametrize(
    "text",
    [
        f"port = {'9' * 5000}",
        f"[reranker]\nport = {'9' * 5000}",
        f"a = {'[' * 5000}{']' * 5000}",
        f"a = {'{b = ' * 3000}1{'}' * 3000}",
        "[" + " " * 500_000 + "]",
        "[reranker]\n" + "".join(f"k{number} = 1\n" for number in range(50_000)),
        f'"{"k" * 500_000}" = 1',
        f"{'a.' * 500_000}a = 1",
        f"['a'{' . a' * 200_000}]",
        '[reranker]\nmodel = "~nosuchuser/x"',
    ],
    ids=range(10),
)
def test_hostile_text_is_an_error_within_two_seconds(text):
    start = time.process_time()
    error = refused(text)
    assert error.code in {"stack-unreadable", "value-refused", "key-unknown", "settings-refused"}
    assert len(str(error)) < 2000
    assert time.process_time() - start < 2


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


class TestFile:
    @pytest.mark.parametrize(
        "name",
        [
            "/dev/zero",
            "/proc/self",
            "/proc/self/mem",
            "pipe",
            "x" * 300,
            "a\0b",
            "large.toml",
            "latin-1.toml",
        ],
    )
    def test_that_is_no_text_of_usual_size(self, tmp_path, pipe, name):
        (tmp_path / "large.toml").write_text("#" * configuration.MAX_BYTES + "\n")
        (tmp_path / "latin-1.toml").write_bytes(b"# \xe4\n")
        with pytest.raises(StackError) as caught:
            load(tmp_path / name)
        assert caught.value.code == "stack-unreadable"

    def test_the_largest_file_with_a_byte_order_mark(self, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_bytes(b"\xef\xbb\xbf[reranker]\nport = 9000\n".ljust(configuration.MAX_BYTES, b"#"))
        assert load(file).reranker.port == 9000


@pytest.mark.parametrize("home", ["~nosuchuser/x", "x" * 5000])
def test_a_data_folder_that_is_none(monkeypatch, home):
    monkeypatch.setenv("RAGOPS_HOME", home)
    with pytest.raises(StackError) as caught:
        configuration.data_folder(configuration.home() / "build")
    assert caught.value.code == "home-unusable"


class TestSeveralErrors:
    TEXT = """bad = 1
[reranker]
prot = 3
cores = "x"
[gateway]
deadline = -1
cache = "x"
"""

    def test_are_shown_at_once_by_line_each_with_its_remedy(self):
        error = refused(self.TEXT)
        assert (error.code, error.message) == (
            "settings-refused",
            "ragops.toml: 5 keys and values can't be used",
        )
        places = re.findall(r"^ragops\.toml:(\d): (?:unknown key )?([\w.]+)", error.evidence, re.MULTILINE)
        keys = ["bad", "reranker.prot", "reranker.cores", "gateway.deadline", "gateway.cache"]
        assert places == list(zip("13467", keys, strict=True))
        assert "did you mean port?" in error.evidence
        assert "CPU list" in error.evidence

    @pytest.mark.parametrize(
        "text", ["[gateway]\ndeadline = -1", "gateway = true", "[gateway]\nreplicas = ['a']"]
    )
    def test_a_value_of_several_types_is_one_error(self, text):
        assert refused(text).code == "value-refused"

    def test_of_many_the_first_are_shown(self):
        error = refused("[reranker]\n" + "".join(f"k{number} = 1\n" for number in range(12)))
        assert len(error.evidence.splitlines()) == 10
        assert "more than 10" in error.message


class TestCommented:
    def test_sets_nothing(self):
        assert parse(configuration.commented()) == Stack()

    def test_has_each_key_with_its_default_which_can_be_set(self):
        text = configuration.commented()
        lines = re.findall(r"^#(\w+ = \S.*|\[\w+\])$|^(\[\w+\])$", text, re.MULTILINE)
        stack = parse("\n".join(key or table for key, table in lines))
        assert stack.swarm is not None
        assert stack.model_copy(update={"swarm": None}) == Stack()
        keys = {key for table in configuration.TABLES.values() for key in table.model_fields}
        assert keys == set(re.findall(r"^#(\w+) =", text, re.MULTILINE))

    def test_names_each_meaning_once_in_lines_of_usual_width(self):
        text = configuration.commented()
        assert max(map(len, text.splitlines())) < 100
        assert text.count("Docker's network driver.") == 1
        assert "``" not in text


def test_each_value_names_what_sets_it(tmp_path, monkeypatch):
    file = tmp_path / "ragops.toml"
    file.write_text("gateway = false\n\n[reranker]\nport = false\nmodel = 'a'\n")
    monkeypatch.delenv("RAGOPS_MODEL_DIR", raising=False)
    values = {key: (value, source) for key, value, source in configuration.sources(file)}
    assert values["reranker.port"] == (False, f"{file}:4")
    assert values["reranker.model"] == (tmp_path / "a", f"{file}:5")
    assert values["gateway"] == (False, f"{file}:1")
    assert values["swarm"] == (None, "default")
    assert values["network.name"] == ("ragflow-rerank", "default")
    monkeypatch.setenv("RAGOPS_MODEL_DIR", "/m")
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    values = {key: (value, source) for key, value, source in configuration.sources(file)}
    assert values["reranker.model"] == ("/m", "RAGOPS_MODEL_DIR")
    assert values["data folder"] == (tmp_path, "RAGOPS_HOME")


@pytest.mark.parametrize(
    ("variable", "revision"),
    [("", "v2"), ("owner/model", "v2"), ("owner/other", "main"), ("/srv/model", "main")],
)
def test_the_revision_is_that_of_the_model_in_effect(tmp_path, monkeypatch, variable, revision):
    file = tmp_path / "ragops.toml"
    file.write_text("[reranker]\nmodel = 'owner/model'\nrevision = 'v2'\n")
    monkeypatch.setenv("RAGOPS_MODEL_DIR", variable)
    values = {key: value for key, value, _ in configuration.sources(file)}
    assert values["reranker.revision"] == revision
    if source := hub_source(configuration.load(file)):
        assert source == (str(values["reranker.model"]), revision)


def test_an_inline_table_is_named_by_its_line(tmp_path):
    file = tmp_path / "ragops.toml"
    file.write_text("\n\nreranker = { port = 9000 }\n")
    values = {key: source for key, _, source in configuration.sources(file)}
    assert values["reranker.port"] == f"{file}:3"


def test_wrong_table():
    assert refused("network = 3").message == "ragops.toml:1: network = 3 can't be used"


def test_text_that_is_no_toml_tells_the_parsers_place():
    error = refused("[network\n")
    assert error.message == "ragops.toml is not TOML"
    assert "line 1" in error.evidence


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7"])
def test_address_that_others_reach_needs_a_word(address):
    text = f'[reranker]\nname = "xy"\npublish = "{address}"\n'
    error = refused(text)
    assert error.message.startswith("ragops.toml:3: ")
    assert "expose = true" in error.hint
    assert parse(f"{text}expose = true").reranker.publish == address


def test_stack_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Stack().reranker.port = 1


def test_model_folder_is_taken_from_the_files_folder(tmp_path):
    (tmp_path / "weights/qwen").mkdir(parents=True)
    (tmp_path / "ragops.toml").write_text('[reranker]\nmodel = "weights/qwen"')
    assert load(tmp_path / "ragops.toml").reranker.model == tmp_path / "weights/qwen"


def test_file_of_the_working_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load() == Stack()
    Path("ragops.toml").write_text("[reranker]\nport = 9000")
    assert load().reranker.port == 9000


def test_named_file_must_exist(tmp_path):
    with pytest.raises(StackError, match="can't read") as caught:
        load(tmp_path / "no.toml")
    assert "--stack" in caught.value.hint


def test_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "ragops.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StackError, match="can't read"):
        load(tmp_path / "ragops.toml")


def test_home_is_named_or_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    assert configuration.home() == tmp_path
    monkeypatch.delenv("RAGOPS_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert configuration.home() == tmp_path / "data" / "ragops"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert configuration.home() == Path(os.environ["HOME"]) / ".local/share/ragops"


@given(st.text(max_size=70))
def test_names_that_are_taken_are_names_for_docker(name):
    try:
        made = configuration.Reranker(name=name)
    except ValueError:
        return
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}", made.name)


@given(st.text(alphabet='[]="\n abcnetworkrankflow.0123', max_size=60))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        parse(text)
    except StackError as error:
        assert error.hint  # noqa: PT017


def test_the_environment_names_a_declaration_where_no_argument_does(tmp_path, monkeypatch):
    for name, port in (("named", 8124), ("given", 8125)):
        (tmp_path / f"{name}.toml").write_text(f"[reranker]\nport = {port}\n")
    monkeypatch.setenv("RAGOPS_STACK", str(tmp_path / "named.toml"))
    assert load().reranker.port == 8124
    assert load(tmp_path / "given.toml").reranker.port == 8125
    monkeypatch.setenv("RAGOPS_STACK", str(tmp_path / "missing.toml"))
    with pytest.raises(StackError, match="can't read"):
        load()


@pytest.mark.parametrize("revision", ["../x", "a/b", "", ".x", "a b"])
def test_a_revision_is_one_name(revision):
    assert refused(f'[reranker]\nrevision = "{revision}"').code == "value-refused"


@pytest.mark.parametrize("size", [16, 31, 48, 100])
def test_blocks_that_end_the_engine_are_refused(size):
    error = refused(f"[reranker]\nblock_size = {size}")
    assert error.message == f"ragops.toml:2: reranker.block_size = {size} can't be used"
    assert "16 ends vLLM" in error.evidence


class TestGateway:
    @pytest.mark.parametrize(
        ("text", "used", "names"),
        [
            ("", True, ["rr-1"]),
            ("gateway = false\n", False, ["rr"]),
            ("[gateway]\ndeadline = false\ncache = false\nlong_documents = 'error'\n", False, ["rr"]),
            ("[gateway]\ndeadline = false\ncache = false\n", True, ["rr-1"]),
            ("[gateway]\ndeadline = 5\ncache = false\nlong_documents = 'error'\n", True, ["rr-1"]),
            ("[gateway]\ndeadline = false\nlong_documents = 'error'\n", True, ["rr-1"]),
        ],
    )
    def test_that_would_do_nothing_is_left_out(self, text, used, names):
        made = parse(f'{text}[reranker]\nname = "rr"\n')
        assert (made.gateway_used, list(made.replica_names)) == (used, names)

    def test_replicas_and_a_key_need_it(self, tmp_path):
        off = "[gateway]\ndeadline = false\ncache = false\nlong_documents = 'error'\n"
        assert parse(f"{off}[reranker]\nreplicas = 3\n").replica_names[-1].endswith("-3")
        made = parse(f"{off}key_file = 'key'\n", tmp_path / "ragops.toml")
        assert made.gateway_used
        assert made.gateway.key_file == tmp_path / "key"

    @pytest.mark.parametrize(
        ("text", "place", "reason"),
        [
            ("gateway = false\n[reranker]\nreplicas = 2", "1: gateway", "reranker.replicas = 2 needs"),
            ("\ngateway = true", "2: gateway", "dictionary"),
            ("[gateway]\ndeadline = true", "2: gateway.deadline", ""),
            ("[gateway]\ndeadline = -1", "2: gateway.deadline", ""),
            ("[gateway]\ndeadline = nan", "2: gateway.deadline", ""),
            ("[gateway]\ncache = -1", "2: gateway.cache", ""),
            ("[gateway]\ncache = true", "2: gateway.cache", ""),
            ("[gateway]\nlong_documents = 'cut'", "2: gateway.long_documents", "'truncate' or 'error'"),
            ("[reranker]\nreplicas = 0", "2: reranker.replicas", "greater than or equal to 1"),
            ("[reranker]\nreplicas = 65", "2: reranker.replicas", "less than or equal to 64"),
            ("[gateway]\ndeadline = 0.05", "2: gateway.deadline", ""),
            (f"[reranker]\nname = '{'a' * 64}'", "2: reranker.name", "63 letters"),
        ],
    )
    def test_wrong_values(self, text, place, reason):
        error = refused(text)
        assert error.message.startswith(f"ragops.toml:{place} = ")
        assert reason in error.evidence

    @pytest.mark.parametrize(
        ("text", "place", "reason"),
        [
            ("[gateway]\nreplicas = ['http://a:8000']", "2: gateway.replicas", "without http://"),
            ("[gateway]\nreplicas = ['a']", "2: gateway.replicas", "HOST:PORT"),
            ("[gateway]\nreplicas = ['a:0']", "2: gateway.replicas", "1 to 65535"),
            ("[gateway]\nreplicas = ['a:1,b:2']", "2: gateway.replicas", "HOST:PORT"),
            ("[reranker]\nreplicas = 2\n[gateway]\nreplicas = ['a:1']", "3: gateway", "excludes reranker"),
            ("[gateway]\nreplicas = ['a:1']\n[swarm]\n", "3: swarm", "excludes [swarm]"),
            ("[reranker]\nname = 'my.reranker'\n[swarm]\n", "3: swarm", "reranker.name"),
            (f"[network]\nname = '{'n' * 58}'\n[swarm]\n", "3: swarm", "network.name"),
        ],
    )
    def test_wrong_servers(self, text, place, reason):
        error = refused(text)
        assert error.message.startswith(f"ragops.toml:{place} = ")
        assert reason in error.evidence

    def test_servers_are_in_place_of_replicas(self):
        made = parse("[gateway]\nreplicas = ['10.0.0.5:8000', 'vllm_1.example:80']\ndeadline = false")
        assert made.servers == ("10.0.0.5:8000", "vllm_1.example:80")
        assert (made.gateway_used, made.replica_names) == (True, ())

    @pytest.mark.parametrize("length", [54, 55, 63])
    def test_long_names_have_an_alias_that_dns_takes(self, length):
        aliases = [parse(f"[reranker]\nname = '{'a' * (length - 1)}{last}'").replicas_alias for last in "bc"]
        assert {len(alias) for alias in aliases} == {63}
        assert len(set(aliases)) == 2

    def test_unknown_key(self):
        error = refused("[gateway]\ndeadlin = 5")
        assert (error.code, error.hint) == ("key-unknown", "did you mean deadline?")
