"""``make run`` asks for the substitute model only if nothing else names a model."""

import os
import shutil

import pytest

from ragops.configuration import Stack
from ragops.session import Session
from ragops.stack import verbs
from tools import make_run


@pytest.mark.parametrize("case", ["variable", "running", "nothing"])
def test_substitute_model_is_served_only_without_another(
    here, serving, ragflow, model_folder, monkeypatch, case
):
    downloaded = here / "models" / "all-MiniLM-L6-v2"
    monkeypatch.setattr(
        "ragops.reranker.model.bundled_minilm", lambda _: shutil.copytree(model_folder, downloaded)
    )
    if case == "running":
        verbs.up(Stack(), serving)
    if case != "variable":
        monkeypatch.setenv("RAGOPS_MODEL_DIR", "")  # set, so that its value is restored
    session = Session(Stack(), serving)
    make_run._choose_model(session)
    assert session.deployment.model.folder == (downloaded if case == "nothing" else model_folder)
    assert downloaded.exists() is (case == "nothing")
    expected = {"variable": str(model_folder), "running": "", "nothing": "substitute"}
    assert os.environ["RAGOPS_MODEL_DIR"] == expected[case]
