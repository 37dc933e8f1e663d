"""How Sphinx builds the site; ``ragops.site.build`` calls it on a copy of this folder."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pypandoc

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# nbsphinx looks for pandoc on the path; the wheel pypandoc_binary brings one along.
PANDOC = Path(pypandoc.get_pandoc_path()).parent
os.environ["PATH"] = f"{PANDOC}{os.pathsep}{os.environ['PATH']}"

# Sphinx only reads below its own folder, so the notebooks as last run are copied there.
NOTEBOOKS = Path(os.environ.get("RAGOPS_NOTEBOOKS") or HERE.parent / "notebooks")
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(
    NOTEBOOKS, HERE / "notebooks", ignore=lambda _, names: {n for n in names if ".ipynb" not in n}
)

# The run whose numbers the pages show; without one, the newest of RAGFlow's calls that was kept here.
KEPT = [str(folder) for folder in sorted((HERE.parent / "results").glob("*-ragflow"))]
RUN = os.environ["RAGOPS_RUN"] = os.environ.get("RAGOPS_RUN") or (KEPT or [""])[-1]

project = "ragops"
author = "the ragops developers"
release = version = installed("ragops-rerank")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "nbsphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "generated",
    "forms",
    "pictures",
    "error_index",
    "releases",
    "durability",
    "layers",
    "fault_table",
    "first_contact",
    "comparisons",
    "launch_targets",
    "searches",
]
exclude_patterns = ["_*", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
highlight_language = "none"
smartquotes = False  # messages and options stay as they are typed

nitpicky = True
# Names of other libraries and of the standard library: their documentation is on other hosts.
nitpick_ignore_regex = [(r"py:.*", r"(?!ragops\.).*")]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_numpy_docstring = False

nbsphinx_execute = "never"
nbsphinx_assume_equations = False
nbsphinx_requirejs_path = ""
nbsphinx_widgets_path = ""
nbsphinx_prolog = """
{% set name = env.doc2path(env.docname, base=None) | string %}
.. rst-class:: ragops-source

Notebook, as last run: :download:`{{ name }} </{{ name }}>`
"""

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_title = "ragops"
html_static_path = ["_static"]
html_extra_path = ["_extra"]  # the report of the recorded run
(HERE / "_extra").mkdir(exist_ok=True)
html_css_files = ["ragops.css"]
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False
html_sidebars = {"index": [], "troubleshooting": []}
html_context = {"default_mode": "auto", "run_name": Path(RUN).name}
html_theme_options = {
    "show_toc_level": 2,
    "show_nav_level": 1,
    "navbar_persistent": ["search-button"],
    "footer_start": ["provenance"],
    "footer_end": [],
    # No page may match two patterns, and notebooks get the room for their figures.
    "secondary_sidebar_items": {"[!n]*": ["page-toc"], "network": ["page-toc"], "index": []},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
