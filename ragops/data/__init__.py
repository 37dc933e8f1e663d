"""Files that ship with the package: the image recipe, templates, the in-container probe."""
