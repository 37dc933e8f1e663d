"""Runs in the serving image, with another release of vLLM first in PYTHONPATH: parses arguments of launches.

Reads a JSON order from standard input: the release, and the arguments of each launch. Ends with an error if
the release is another one, or if a launch is refused as ``python -m vllm.entrypoints.openai.api_server
ARGUMENTS`` or as ``vllm serve MODEL ARGUMENTS``.
"""

from __future__ import annotations

import json
import sys

from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.version import __version__


def main() -> None:
    """Parse all launches in both forms."""
    order = json.load(sys.stdin)
    if __version__ != order["version"]:
        sys.exit(f"this is vLLM {__version__}")
    module = make_arg_parser(FlexibleArgumentParser())
    command = FlexibleArgumentParser()
    make_arg_parser(command.add_subparsers(dest="subparser").add_parser("serve"))
    for arguments in order["launches"]:
        flag, model, *others = arguments
        if flag != "--model":
            sys.exit(f"the first argument is {flag}")
        plain, served = module.parse_args(arguments), command.parse_args(["serve", model, *others])
        served.model = served.model_tag
        for parsed in (plain, served):
            validate_parsed_serve_args(parsed)
        differing = {name for name, value in vars(plain).items() if value != getattr(served, name)}
        if differing - {"model_tag"}:
            sys.exit(f"both forms differ: {differing}")


if __name__ == "__main__":
    main()
