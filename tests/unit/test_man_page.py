"""The man page in the wheel has each verb and each option, and only macros that it means."""

import re
import tomllib

import hatch_build
from tools.commands import commands

PAGE = hatch_build.man_page()
TEXT = PAGE.replace(r"\-", "-").replace(r"\e", "\\")


def test_has_each_verb_with_its_options():
    for name, verb in commands().items():
        section = re.search(rf"^\.SS ragops {name}(?: .*)?\n((?:(?!\.S[SH]).*\n)+)", TEXT, re.MULTILINE)
        assert section, name
        missing = [option for item in verb.params for option in item.opts if item.param_type_name == "option"]
        assert [option for option in missing if option not in section[1]] == []


def test_has_exit_codes_and_groups():
    assert "3 changes pending" in TEXT
    assert re.findall(r"^\.SH (.*)", TEXT, re.MULTILINE)[2:-1] == [
        "START", "KEEP RUNNING", "MEASURE", "REMOVE", "SET UP",
    ]  # fmt: skip


def test_lines_that_begin_with_a_mark_are_macros():
    macros = {line.split()[0] for line in PAGE.splitlines() if line.startswith((".", "'"))}
    assert macros <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B"}


def test_the_wheel_is_built_with_it():
    with (hatch_build.ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    assert "custom" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    assert [item for item in project["build-system"]["requires"] if item.startswith("typer")]
