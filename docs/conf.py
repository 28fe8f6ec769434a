"""How Sphinx builds these pages: sphinx-build -W --keep-going -b html docs docs/_build/html."""

from nnunet_seqtransfer import __version__

project = "nnunet-seqtransfer"
author = "The nnunet-seqtransfer authors"
project_copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"{project} {release}"
