"""Programs of the Makefile: a private Docker engine, executed notebooks, the site. Not in the wheel."""
