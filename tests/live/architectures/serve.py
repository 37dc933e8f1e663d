"""Runs in the vLLM image: scores with each checkpoint as its launch does, without starting a server.

Reads JSON from standard input: ``rows`` with a ``name`` and the launch's ``arguments``, and ``calls``, each a
query and its documents. Writes, for each row, the ``scores`` of each call and the ``bare`` ones without the
score template, or the ``error`` that ends the start.

The arguments go through the parser of ``vllm serve``. vLLM is imported once; each row has a process of its
own, forked from it, in which the engine runs too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read at the import

from vllm import LLM
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.model_executor.models import registry
from vllm.renderers.chat_utils import load_chat_template
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.version import __version__

# Else each class would be inspected in a process of its own, which imports vLLM.
registry._run_in_subprocess = lambda inspect: inspect()


def scored(arguments: list[str], calls: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """Start the engine and score all calls."""
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    model = LLM.from_engine_args(EngineArgs.from_cli_args(parsed))

    def scores(template: str | None) -> list[list[float]]:
        outputs = [model.score(*call, chat_template=template, use_tqdm=False) for call in calls]
        return [[output.outputs.score for output in call] for call in outputs]

    template = load_chat_template(parsed.chat_template)
    return {"scores": scores(template), "bare": scores(None) if template else []}


def main() -> None:
    """One process for each row."""
    order = json.load(sys.stdin)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in order["rows"]:
            file = Path(folder) / row["name"]
            child = os.fork()
            if not child:
                os.dup2(2, 1)  # vLLM's log
                try:
                    result = scored(row["arguments"], order["calls"])
                except BaseException as error:  # noqa: BLE001 - the result of this row
                    traceback.print_exc()
                    result = {"error": f"{type(error).__name__}: {error}"}
                file.write_text(json.dumps(result))
                os._exit(0)
            os.waitpid(child, 0)
            results[row["name"]] = json.loads(file.read_text()) if file.exists() else {"error": "it crashed"}
    json.dump({"rows": results, "vllm": __version__}, sys.stdout)


if __name__ == "__main__":
    main()
