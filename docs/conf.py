"""Configuration of Sphinx; ``tools.site.build`` builds a copy of this folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pypandoc

from tools import addresses

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


def executed(folder: Path) -> dict[str, str]:
    """When, where and with which model each executed notebook ran."""
    file = folder / "executed.json"
    if not file.exists():
        return {}
    origin = json.loads(file.read_text(encoding="utf-8"))
    model = f"{origin['model']}{', a substitute model' if origin['substitute'] else ''}"
    words = f", executed on {origin['date']} on {origin['machine']} with {model}"
    with_outputs = [
        file for file in folder.glob("*.ipynb") if '"output_type"' in file.read_text(encoding="utf-8")
    ]
    return dict.fromkeys((file.stem for file in with_outputs), words)


# The run whose values the pages show; by default the newest run of RAGFlow's requests in results/.
RECORDED = [str(folder) for folder in sorted((HERE.parent / "results").glob("*-ragflow"))]
RUN = os.environ["RAGOPS_RUN"] = os.environ.get("RAGOPS_RUN") or (RECORDED or [""])[-1]

project = "ragops"
author = "the ragops developers"
release = version = installed("ragops-rerank")

# Without these addresses the site is complete, except for links to them.
ADDRESSES = addresses.read()
# The folder of a site with several versions: "dev" or a release.
VERSION = os.environ.get("RAGOPS_VERSION", "")
CANONICAL = "stable" if release == VERSION else VERSION
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL") or (ADDRESSES.site and ADDRESSES.site + CANONICAL)

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
    "usual",
    "error_index",
    "releases",
    "durability",
    "layers",
    "fault_table",
    "first_result",
    "comparisons",
    "estimates",
    "performance",
    "gateway_records",
    "growth_records",
    "searches",
    "publishing",
    "gallery",
]
if ADDRESSES.repository:
    tags.add("repository")  # type: ignore[name-defined] # noqa: F821 - Sphinx defines it
if html_baseurl:
    tags.add("published")  # type: ignore[name-defined] # noqa: F821
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
{% set ran = env.config.html_context.executed[env.docname.rpartition("/")[2]] %}
.. rst-class:: ragops-source

Notebook{{ ran }}: :download:`{{ name }} </{{ name }}>`
"""

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_title = "ragops"
html_favicon = "_static/logo.svg"
html_last_updated_fmt = "%Y-%m-%d"
html_static_path = ["_static"]
html_extra_path = ["_extra"]  # the report of the recorded run
(HERE / "_extra").mkdir(exist_ok=True)
html_css_files = ["ragops.css"]
html_js_files = [("gallery.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False
html_sidebars = {"index": [], "troubleshooting": []}
html_search_scorer = str(HERE / "_ext" / "scorer.js")
html_context = {
    "default_mode": "auto",
    "run_name": Path(RUN).name,
    "executed": executed(NOTEBOOKS),
    "tagline": "a private vLLM reranker for RAGFlow",
    "repository": ADDRESSES.repository,
    "edit_page_provider_name": "",
    "edit_page_url_template": ADDRESSES.repository
    + "/edit/main/{{ '' if file_name.startswith('notebooks/') else 'docs/' }}{{ file_name }}",
}
OUTLINE = ["page-toc", "edit-this-page"]
html_theme_options = {
    "show_toc_level": 2,
    "show_nav_level": 1,
    "navigation_depth": 1,  # the theme's buttons for deeper pages have no name for screen readers
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "footer_start": ["provenance"],
    "footer_end": [],
    "use_edit_page_button": bool(ADDRESSES.repository),
    # No page but index may match two patterns.
    "secondary_sidebar_items": {"[!n]*": OUTLINE, "n*": OUTLINE, "index": []},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if ADDRESSES.repository:
    html_theme_options["icon_links"] = [
        {"name": "Source", "url": ADDRESSES.repository, "icon": "fa-brands fa-github"}
    ]
if VERSION and ADDRESSES.site:
    html_theme_options |= {
        "switcher": {"json_url": f"{ADDRESSES.site}switcher.json", "version_match": VERSION},
        "check_switcher": False,  # the versions are put together after the build
        "navbar_end": ["version-switcher", "theme-switcher", "navbar-icon-links"],
        "show_version_warning_banner": True,
    }
