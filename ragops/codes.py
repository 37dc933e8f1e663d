"""A short, stable code for each error, found by its kind and its words; pure.

``errors.py`` asks :func:`find`, the page of errors is generated from the table. A row takes one class of
errors and a regular expression that the message matches; a new error needs none, and has the code of its
class until it gets one. What engines and containers say has its codes in ``hints.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops import hints
from ragops.ragflow.failures import FAILURES

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = "errors.html"
"""The page of the site that explains the codes, each at an anchor of its name."""


@dataclass(frozen=True)
class Code:
    """One code: which errors have it, and what it means."""

    name: str
    kind: str
    """Class of the errors, by name."""
    words: str
    """Regular expression that is searched in the message; an empty one takes all of the kind."""
    meaning: str
    remedy: str = ""
    """What to do, where no hint with the error says it in fixed words."""


CODES = (
    Code("stack-unreadable", "StackError", r"can't read|is not TOML", "ragops.toml can't be read."),
    Code(
        "key-unknown",
        "StackError",
        r"unknown key",
        "ragops.toml has a key that means nothing.",
        "take the key out, or mend its spelling: the hint names the nearest one, the evidence all",
    ),
    Code(
        "value-refused", "StackError", r": \S+ = .* can't be used$", "A value in ragops.toml can't be used."
    ),
    Code(
        "port-exposed",
        "StackError",
        r"is reached from other machines",
        "The port would be open to other machines, and a published port passes the host's firewall.",
    ),
    Code(
        "cores-missing",
        "StackError",
        r"CPU list|runs backwards|which CPUs there are|can't be used here",
        "The CPUs that are named are no list, or are not there for this process.",
    ),
    Code(
        "secret-refused",
        "StackError",
        r"holds no key|no key can be read",
        "What should be a key or token can't be read, or can't be sent.",
    ),
    Code(
        "address-refused",
        "StackError",
        r"no address of RAGFlow",
        "What is given as RAGFlow's address is none.",
    ),
    Code("extra-missing", "StackError", r"needs the package", "An optional library is not installed."),
    Code("length-refused", "StackError", r"max_model_len", "The model can't take documents of that length."),
    Code(
        "setting-refused",
        "StackError",
        r"max_num_batched_tokens|is an encoder",
        "vLLM would not start with that setting, or the model has nothing that it could change.",
    ),
    Code(
        "kv-cache-small", "StackError", r"key-value cache", "One document does not fit the key-value cache."
    ),
    Code("memory-short", "StackError", r"of memory", "The machine, or its NUMA node, has too little memory."),
    Code("network-differs", "StackError", r"differs from its", "The network is there, in another form."),
    Code("name-taken", "StackError", r"did not make is named", "Something that is not ours has the name."),
    Code("name-taken", "EngineError", r"did not make is named", "Something that is not ours has the name."),
    Code(
        "names-ambiguous",
        "EngineError",
        r"networks are named",
        "Several networks have one name: engines before 23 make duplicates without a word.",
    ),
    Code("command-hangs", "EngineError", r"did not end within", "A command in a container goes on and on."),
    Code(
        "build-failed",
        "EngineError",
        r"^building ",
        "A step of building an image failed.",
        "read the builder's last words, and ``logs/image.log`` in ragops' folder",
    ),
    Code(
        "probe-silent", "EngineError", r"probe inside", "The program that looks from inside gave no answer."
    ),
    Code(
        "engine-not-started",
        "EngineError",
        r"private Docker engine|starting one needs|neither Debian|docker\.io could not",
        "There is no engine, and ragops could not start one of its own.",
    ),
    Code("reranker-missing", "NotFoundError", r"no reranker", "There is no reranker of that name yet."),
    Code("network-missing", "NotFoundError", r"there is no network", "The network has not been made yet."),
    Code(
        "out-of-memory",
        "LaunchError",
        r"exit code 137|for want of memory",
        "The kernel ended the server, because the container or the machine ran out of memory.",
    ),
    Code(
        "cpu-too-old",
        "LaunchError",
        r"exit code 132",
        "The server ended at an instruction that this processor does not have (SIGILL).",
    ),
    Code(
        "reranker-removed", "LaunchError", r"was removed", "Somebody removed the container while it started."
    ),
    Code("reranker-paused", "LaunchError", r"is paused", "The container is paused, so it can't get ready."),
    Code("start-slow", "LaunchError", r"did not answer within", "The server was not ready in time."),
    Code("model-missing", "ModelError", r"no model folder", "The folder that is named is not there."),
    Code("model-incomplete", "ModelError", r"not a complete model", "Files are missing, or cut off."),
    Code(
        "model-pointers",
        "ModelError",
        r"git-lfs pointers",
        "The folder was cloned without git-lfs: in place of large files it has small texts that name them.",
    ),
    Code("model-unreadable", "ModelError", r"can't read|could not read", "A file can't be read."),
    Code(
        "model-runs-code", "ModelError", r"Python code of its own", "The model wants to run code of its own."
    ),
    Code(
        "model-pickled", "ModelError", r"pickle", "The weights are in a form that runs code when it is read."
    ),
    Code(
        "model-links",
        "ModelError",
        r"links to files outside",
        "Links lead out of the folder, as in a hub's cache; only the folder itself is mounted.",
    ),
    Code(
        "model-no-reranker",
        "ModelError",
        r"can't rerank|can't be asked|sorts into",
        "The model gives no single score for a query and a document.",
    ),
    Code(
        "model-fetch",
        "ModelError",
        r"pip could not|not the file that was",
        "The stand-in model could not be fetched, or is another file than the one that was examined.",
    ),
    Code(
        "model-not-int",
        "ModelError",
        r"made int8|int8 folder",
        "No int8 copy of the model can be made: its kind, its files, or the place for it.",
    ),
    Code(
        "image-lacks-library",
        "ImageError",
        r"a library is missing",
        "The image has no compressed-tensors, which makes and reads int8 weights.",
    ),
    Code("image-missing", "ImageError", r"has no image|is not there after", "The image can't be had."),
    Code("build-needs-root", "ImageError", r"needs root", "Building the image makes a root file system."),
    Code("build-needs-tool", "ImageError", r"needs debootstrap", "A program for building is not there."),
    Code("wheels-missing", "ImageError", r"no CPU build", "pip's sources lack a wheel that the image needs."),
    Code(
        "ragflow-ambiguous", "RagflowError", r"RAGFlows run", "Several RAGFlows run here, and none is named."
    ),
    Code("cannot-join", "RagflowError", r"can't join", "Docker can't connect that container to a network."),
    Code("container-missing", "RagflowError", r"no container is named", "No container has that name."),
    Code("ragflow-missing", "RagflowError", r"no RAGFlow container", "No container of RAGFlow was found."),
    Code("ragflow-stand-in", "RagflowError", r"is the demo client", "A stand-in has no settings."),
    Code(
        "ragflow-release",
        "RagflowError",
        r"a release that ragops knows|which release of RAGFlow|can't use a vLLM",
        "RAGFlow's release is unknown, or one that can't use the reranker; nothing is written into it.",
    ),
    Code(
        "ragflow-access",
        "RagflowError",
        r"API token|needs an e-mail",
        "RAGFlow needs a token or a login that was not given.",
    ),
    Code(
        "ragflow-silent",
        "RagflowError",
        r"did not answer|no address on this host",
        "RAGFlow can't be reached.",
    ),
    Code(
        "registration-refused",
        "RagflowError",
        r"^RAGFlow refused",
        "RAGFlow said no; its words are shown, with what they mean.",
        "read what the evidence says of RAGFlow's words; the page on connecting RAGFlow lists them",
    ),
    Code("entry-foreign", "RagflowError", r"not by ragops alone", "Somebody else's entry is in the way."),
    Code("entry-differs", "RagflowError", r"reads back something else", "RAGFlow has not what was sent."),
    Code("kept-unreadable", "RagflowError", r"in RAGFlow before", "What was there before can't be read."),
    Code(
        "override-excluded",
        "RagflowError",
        r"network_mode|not made by compose",
        "There is no compose file in which RAGFlow's server can be given a network.",
    ),
    Code(
        "override-unwritten",
        "RagflowError",
        r"not on this machine|can't write",
        "The override file can't be put beside RAGFlow's own.",
    ),
    Code(
        "load-refused",
        "BenchError",
        r"is no load|is no level|has no due times|nothing to play|key is empty",
        "What is asked of the benchmark is no load.",
    ),
    Code(
        "workload-refused",
        "BenchError",
        r"workload needs|holds no request|is no request|no new text|^can't read",
        "What should be sent is no workload.",
    ),
    Code(
        "run-unreadable",
        "BenchError",
        r"no recorded run|run\.json|is broken|can't make",
        "A folder can't be written, or holds no recorded run that this version reads.",
    ),
    Code(
        "run-too-small",
        "BenchError",
        r"no closed level|too few samples|no answered request|no measured request",
        "The recorded run has too little for what is asked of it.",
    ),
    Code("runs-differ", "BenchError", r"in common|different workloads", "The two runs can't be compared."),
    Code(
        "run-not-continued",
        "BenchError",
        r"is complete$|not the texts of|not the one that the run|can't be drawn again|drawn differently",
        "A run can't be continued: nothing is missing, or what it measured is not what is there now.",
    ),
    Code("cores-shared", "BenchError", r"would share the cores", "Two rerankers would compute at once."),
    Code("run-busy", "BenchError", r"another process is recording", "Two processes want to write one run."),
    Code(
        "disk-full", "BenchError", r"can't write to", "A run could not be written on; it keeps what it had."
    ),
    Code("reranker-gone", "BenchError", r"the reranker is gone", "Nobody answers any more; the run ends."),
    Code(
        "limit-unknown",
        "BenchError",
        r"limit could not|tell its shape",
        "How fast the machine multiplies is unknown.",
    ),
    Code("verdict-missing", "BenchError", r"says nothing about", "A run of that workload has no verdict."),
    Code(
        "order-wrong",
        "BenchError",
        r"sorts a known question|order check is no",
        "The server ranks a plain question wrongly, so its speed means nothing.",
    ),
    Code("server-silent", "BenchError", r"did not answer", "The server under load gives no answer."),
    Code(
        "not-published", "BenchError", r"not published", "Nothing of the reranker is published on this host."
    ),
    Code(
        "extra-missing",
        "BenchError",
        r"needs? (pandas|numpy)|more libraries",
        "An optional library is not installed.",
    ),
    Code("extra-missing", "RagopsError", r"not installed|no dot command", "A program is not installed."),
    Code("wheel-missing", "RagopsError", r"pip could not", "pip could not get a package."),
    Code("notebook-failed", "RagopsError", r"^notebook ", "A notebook ended with an error."),
    Code(
        "notebook-refused", "RagopsError", r"no notebook", "There are no notebooks, or none has that value."
    ),
    Code("run-missing", "RagopsError", r"no recorded run", "There is no run to show."),
    Code("site-refused", "RagopsError", r"site|dot can't", "The site can't be built as asked."),
)
"""Looked up from the top; the first that fits counts."""

DEFAULTS = (
    Code("engine-silent", "EngineError", r"answer", "No Docker engine answers, or it stopped answering."),
    Code("not-found", "NotFoundError", "", "The engine has no object of that name."),
    Code(
        "engine-refused",
        "EngineError",
        "",
        "The engine refused what it was asked, in words that ragops has no remedy for.",
        "look at the engine's log: ``journalctl --unit docker``",
    ),
    Code("stack-refused", "StackError", "", "What is declared can't be done here."),
    Code(
        "start-failed",
        "LaunchError",
        "",
        "The reranker ended while it started; its last words are shown.",
        "``docker logs`` shows the whole log; ``ragops doctor`` looks for most causes",
    ),
    Code("model-refused", "ModelError", "", "The model folder can't be used."),
    Code("image-failed", "ImageError", "", "Making the image failed; the end of its log is shown."),
    Code("ragflow-refused", "RagflowError", "", "RAGFlow can't be used as asked."),
    Code("bench-failed", "BenchError", "", "The benchmark could not do it.", "what was recorded stays"),
    Code("compose-unreadable", "ComposeError", "", "A compose file can't be read, or is none."),
    Code("network-in-use", "InUseError", "", "Others' containers are in a network that is to be removed."),
    Code("locked", "LockedError", "", "Another ragops is changing or watching the same stack."),
    Code("failed", "RagopsError", "", "Something could not be done; the message says what."),
)
"""What is left after :data:`CODES` and the hints; the last rows take whole kinds."""

_SAID = (("EngineError", hints.ENGINE), ("LaunchError", hints.CONTAINER), ("RagflowError", FAILURES))


def find(kinds: Sequence[str], message: str, evidence: str) -> str:
    """The code of an error.

    Args:
        kinds: Names of its class and of those that it comes from.
        message: Its message.
        evidence: What was seen; engines and containers tell the cause there.
    """
    for row in CODES:
        if row.kind == kinds[0] and re.search(row.words, message):
            return row.name
    for kind, table in _SAID:
        for hint in table:
            if kind in kinds and hint.words.lower() in evidence.lower():
                return hint.code
    return next(row.name for row in DEFAULTS if row.kind in kinds and re.search(row.words, message))
