"""The request of ragops is RAGFlow's: byte for byte as its recorded clients sent it, and in its time."""

import json
from pathlib import Path

import pytest

from ragops.ragflow import releases
from ragops.ragflow.request import TIMEOUT, RerankRequest

DATA = Path(__file__).parent / "data" / "ragflow"


def sent(release):
    """Each call of a recorded client, and the request that it put on the wire."""
    for case in json.loads((DATA / f"client-{release}.json").read_text())["cases"]:
        for request in case["http"]:
            yield case["call"], request


def ours(call):
    name = call["model_name"].partition("___")[0]
    return RerankRequest(name, call["query"], tuple(call["texts"])).body()


@pytest.mark.parametrize("release", ["v0.25.6", "v0.27.0"])
def test_bytes_are_those_of_the_recorded_client(release):
    compared = [(ours(call).decode(), request["body_utf8"]) for call, request in sent(release)]
    assert [one for one, _ in compared] == [other for _, other in compared]
    assert len(compared) > 10


def test_older_client_says_the_same_in_other_bytes():
    for call, request in sent("v0.20.5"):
        assert json.loads(ours(call)) == request["body_json"]


def test_time_is_that_of_the_newest_release():
    assert releases.of(releases.NEWEST).timeout == TIMEOUT == 30
