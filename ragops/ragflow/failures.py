"""RAGFlow's error messages with their causes and remedies.

The rows are in ``data/ragflow_messages.tsv``, the most specific first. Words with ``API error`` and those of
Go's ``net/http`` are of v1.0 (internal/entity/models/vllm.go). :mod:`ragops.ragflow.api` searches the table,
and two pages of the site are generated from it.
"""

from ragops.data import read_table
from ragops.docker.hints import Hint

FAILURES = tuple(
    Hint(words, remedy, code, cause)
    for column, code, remedy, cause in read_table("ragflow_messages.tsv")
    for words in column.split(" | ")
)
"""Parts of RAGFlow's messages, the most specific first: the first match is used."""
