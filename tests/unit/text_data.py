"""Texts for tests: sentences of made-up words, in files."""

import json

from anymask.data.kinds.text import made_up

SENTENCES = made_up(80, seed=3)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def collection(root, documents, queries, judged):
    """A folder in the layout of BEIR; `judged` are (query, document, relevance)."""
    jsonl(root / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(documents)])
    jsonl(root / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)])
    (root / "qrels").mkdir()
    rows = ["query-id\tcorpus-id\tscore", *(f"q{q}\td{d}\t{r}" for q, d, r in judged)]
    (root / "qrels" / "test.tsv").write_text("\n".join(rows))
    return root
