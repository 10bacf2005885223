"""How the documentation is built: see scripts/docs.sh."""

import mei_lightning

project = "mei_lightning"
author = "the mei_lightning developers"
copyright = f"2026, {author}"
release = version = mei_lightning.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = project
# These pages have no others below them.
html_sidebars = {name: [] for name in ("install", "ten_minutes", "gallery", "references", "changelog", "contributing")}
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
# The notebooks are run at each build, and an error in one is an error of the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# What they write is not kept.
nb_execution_in_temp = True
# Progress bars and what Lightning says of the hardware.
nb_output_stderr = "remove"

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": True}
python_use_unqualified_type_names = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
