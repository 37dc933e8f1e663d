"""What `make` needs: a private Docker engine, executed notebooks, the site. Not in the wheel."""
