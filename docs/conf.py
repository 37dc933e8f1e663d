"""Configuration of Sphinx; ``tools.site.build`` builds a copy of this folder."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pypandoc

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# nbsphinx needs pandoc on the path; the wheel pypandoc_binary contains it.
PANDOC = Path(pypandoc.get_pandoc_path()).parent
os.environ["PATH"] = f"{PANDOC}{os.pathsep}{os.environ['PATH']}"

# Sphinx reads only its own folder, so the executed notebooks are copied there.
NOTEBOOKS = Path(os.environ.get("RAGOPS_NOTEBOOKS") or HERE.parent / "notebooks")
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(
    NOTEBOOKS, HERE / "notebooks", ignore=lambda _, names: {name for name in names if ".ipynb" not in name}
)

# The run whose values the pages show; by default the newest run of RAGFlow's requests in results/.
RECORDED = [str(folder) for folder in sorted((HERE.parent / "results").glob("*-ragflow"))]
RUN = os.environ["RAGOPS_RUN"] = os.environ.get("RAGOPS_RUN") or (RECORDED or [""])[-1]

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
    "cards",
    "error_index",
    "releases",
    "durability",
    "layers",
    "fault_table",
    "first_result",
    "comparisons",
    "performance",
    "gateway_records",
    "growth_records",
    "searches",
]
exclude_patterns = ["_*", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
highlight_language = "none"
smartquotes = False  # messages and options are literal

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

Notebook, as last executed: :download:`{{ name }} </{{ name }}>`
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
html_search_scorer = str(HERE / "_ext" / "scorer.js")
html_context = {"default_mode": "auto", "run_name": Path(RUN).name}
html_theme_options = {
    "show_toc_level": 2,
    "show_nav_level": 1,
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "footer_start": ["provenance"],
    "footer_end": [],
    # No page may match two patterns; notebooks have no outline, so that their charts are wide.
    "secondary_sidebar_items": {"[!n]*": ["page-toc"], "network": ["page-toc"], "index": []},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
