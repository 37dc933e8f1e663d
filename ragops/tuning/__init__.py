"""Searches launch settings on this machine: ``ragops tune``.

``candidates.py`` says what is tried, ``compare.py`` when a difference counts, ``search.py`` who meets
whom, ``rig.py`` runs the containers, ``records.py`` and ``folder.py`` keep it, ``report.py`` shows it,
``declare.py`` writes the winner down, and ``run.py`` is the verb.
"""
