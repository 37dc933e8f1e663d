"""The logic of the other server: prompts, padding, batches, and what it answers; the model is a toy here."""

import asyncio
import contextlib
import importlib
import json
import re
import shlex
import textwrap
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks import side_by_side
from benchmarks.data import peer
from benchmarks.peer import spec
from ragops import cli
from ragops.bench import compare_runs, wire
from ragops.bench.compare import Agreement
from ragops.bench.records import load_run
from ragops.bench.statistics import level_statistics
from ragops.bench.workload import synthetic
from ragops.errors import BenchError

ROOT = Path(__file__).parents[2]


def toy(query, documents):
    """Score: share of the query's words in a document; tokens: characters."""
    words = set(query.split())
    scores = [len(words & set(one.split())) / len(words) for one in documents]
    return scores, sum(map(len, documents))


@contextmanager
def served(score=toy):
    server = ThreadingHTTPServer(("127.0.0.1", 0), peer.handler("toy", score))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def letters(text):
    return [ord(one) for one in text]


def test_prompt_is_the_model_cards():
    (ids,) = peer.prompts(letters, "why?", ["so."])
    assert "".join(map(chr, ids)) == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        "<Query>: why?\n<Document>: so.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_a_long_document_is_cut_before_the_suffix():
    (ids,) = peer.prompts(letters, "why?", ["x" * 999], longest=400)
    assert len(ids) == 400
    assert "".join(map(chr, ids)).endswith("x" + peer.SUFFIX)


def test_rows_are_filled_on_the_left():
    ids, mask = peer.padded([[1, 2, 3], [4]], 0)
    assert ids == [[1, 2, 3], [0, 0, 4]]
    assert mask == [[1, 1, 1], [0, 0, 1]]


def test_prompts_of_like_lengths_go_together_and_none_is_lost():
    found = peer.batches([50, 10, 40, 20, 30], 2)
    assert found == [[1, 3], [4, 2], [0]]


def test_it_answers_what_ragops_asks():
    async def ask(url):
        documents = ("a cat", "a green dog", "a dog")
        body = wire.encode("toy", "green dog", documents)
        with contextlib.closing(wire.Client(wire.Server(url, "toy"))) as client:
            return await client.post(body, len(documents))

    with served() as url:
        reply = asyncio.run(ask(url))
    assert (reply.error, reply.status, reply.tokens) == ("", 200, 21)
    assert reply.scores == (0.0, 1.0, 0.5)


def test_best_comes_first_and_top_n_cuts():
    with served() as url:
        body = {"model": "toy", "query": "dog", "documents": ["cat", "dog", "bird"], "top_n": 1}
        (row,) = httpx.post(f"{url}/rerank", json=body).json()["results"]
    assert row == {"index": 1, "document": {"text": "dog"}, "relevance_score": 1.0}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "other", "query": "x", "documents": ["y"]}, 404),
        ({"model": "toy", "documents": ["y"]}, 400),
        ({"model": "toy", "query": "x", "documents": []}, 400),
        ({"model": "toy", "query": "x", "documents": [7]}, 400),
        ([], 400),
    ],
)
def test_what_it_can_not_answer_is_told(body, status):
    with served() as url:
        assert httpx.post(f"{url}/rerank", json=body).status_code == status


def test_other_paths_and_the_model_list():
    with served() as url:
        assert httpx.get(f"{url}/models").json()["data"] == [{"id": "toy"}]
        assert httpx.get(f"{url}/else").status_code == 404
        assert httpx.post(f"{url}/score", json={}).status_code == 404


def test_a_slow_head_does_not_delay_the_body():
    """In two writes the second would wait 40 ms for an acknowledgement."""
    with served() as url, httpx.Client() as client:
        body = {"model": "toy", "query": "x", "documents": ["y"]}
        times = (client.post(f"{url}/rerank", json=body).elapsed.total_seconds() for _ in range(200))
        assert any(took < 0.03 for took in times)  # the machine may be busy for some


def test_its_container_is_reached_from_this_host_only(tmp_path):
    made = spec("vllm-cpu:latest", tmp_path, "m", container="c", port=8124, cpus="0-1")
    assert made.publish == (("127.0.0.1", 8124, 8000),)
    assert made.cpuset_cpus == "0-1"
    assert all(mount.read_only for mount in made.mounts)


def test_scores_come_in_the_order_of_the_documents():
    texts = synthetic(2, documents=3, words=5)
    with served() as url:
        found = side_by_side.scores(url, "toy", texts)
    assert found == [tuple(toy(one.query, one.documents)[0]) for one in texts.requests]


def test_a_server_that_fails_has_no_scores():
    with served() as url, pytest.raises(BenchError, match="did not respond"):
        side_by_side.scores(url, "another name", synthetic(1, documents=2, words=5))


def test_times_are_not_compared_if_the_orders_differ():
    side_by_side.require_agreement(Agreement(kendall_tau=0.99, top1=1.0, max_difference=0.001, rankings=10))
    for tau, top1 in ((0.9, 1.0), (1.0, 0.8)):
        with pytest.raises(BenchError, match="different orders") as caught:
            side_by_side.require_agreement(Agreement(tau, top1, 0.3, 10))
        assert f"{tau:.3f}" in caught.value.evidence


def test_the_pages_code_gates_two_servers():
    page = (ROOT / "docs" / "other_servers.rst").read_text()
    (code,) = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)
    with served() as one, served() as other:
        code = textwrap.dedent(code).replace("qwen3-reranker-0.6b", "toy")
        code = code.replace("http://127.0.0.1:8123/v1", one).replace("http://127.0.0.1:8124/v1", other)
        names = {}
        exec(code, names)  # noqa: S102 - the page's own words are what is tested
    assert names["result"].kendall_tau == 1.0
    assert names["result"].rankings == 10


def test_the_pages_commands_measure_two_servers_and_compare_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "other_servers.rst").read_text()
    lines = re.findall(r"^   \$ ragops (bench --url .*--repeats .*|compare .*)$", page, re.MULTILINE)
    assert [line.partition(" ")[0] for line in lines] == ["bench", "bench", "compare"]
    with served() as one, served() as other:
        for line in lines:
            words = line.replace("qwen3-reranker-0.6b", "toy").replace("http://127.0.0.1:8123/v1", one)
            words = words.replace("http://127.0.0.1:8124/v1", other)
            for name in ("vllm", "other"):
                made = next(iter(Path("results").glob(f"*-{name}")), Path())
                words = words.replace(f"results/RUN-{name}", str(made))
            few = ["--requests", "4"] if words.startswith("bench") else []
            assert cli.main([*shlex.split(words), *few]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "p50" in out
    assert "-vllm" in out
    assert "-other" in out


def test_the_recorded_comparison_is_that_of_its_runs(capsys, monkeypatch):
    made = json.loads((ROOT / "docs" / "_data" / "peer.json").read_text())
    runs = [load_run(ROOT / "results" / side["run"]) for side in made["sides"]]
    for run, side in zip(runs, made["sides"], strict=True):
        (row,) = level_statistics(run)
        assert (row.n, row.errors) == (made["requests"], 0)
        assert row.latency[0].value == pytest.approx(side["p50_s"], abs=1e-6)
        assert row.documents_per_s == pytest.approx(side["documents_per_s"], abs=1e-6)
        assert run.info.order.skipped == made["stand_in"]
    side_by_side.require_agreement(Agreement(**made["agreement"]))
    assert [str(row) for row in compare_runs(*runs).ratios] == [row["ratio"] for row in made["ratios"]]
    assert cli.main(["compare", *(run.path.name for run in runs), "--results", str(ROOT / "results")]) == 0
    assert "B / A" in capsys.readouterr().out
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    shown = importlib.import_module("comparisons").peer
    assert f"{made['agreement']['kendall_tau']:.3f}" in "\n".join(shown("verdict"))
    assert all(side["run"] in "\n".join(shown("values")) for side in made["sides"])
    assert "random weights" in "\n".join(shown("provenance"))
