"""Collections for retrieval: BM25 beside features, figures by hand, the metric of claims."""

import json
from collections import Counter

import numpy as np
import pytest
from task_tools import made
from text_data import SENTENCES, collection

from anymask.claims import ClaimError, Retrieve
from anymask.data import DataError, infer_schema, open_source
from anymask.evaluation import embed, evaluate
from anymask.evaluation.tasking import default_task
from anymask.run import Run

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")
QUERIES = ["red apple sweet", "wet rain storm", "the blue sea tide"]
JUDGED = [(0, 3, 2), (0, 5, 1), (1, 7, 1), (2, 2, 1), (2, 9, 3)]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "beir").mkdir()
    return collection(tmp_path / "beir", SENTENCES[:30], QUERIES, JUDGED)


def bm25(documents, queries, k1=1.5, b=0.75):
    """(queries, documents) by the formula of Lucene, one term after another."""
    documents = [text.split() for text in documents]
    mean, n = np.mean([len(d) for d in documents]), len(documents)
    scores = np.zeros((len(queries), n))
    for q, query in enumerate(queries):
        for term in query.split():
            df = sum(term in d for d in documents)
            idf = np.log(1 + (n - df + 0.5) / (df + 0.5))
            for i, d in enumerate(documents):
                tf = Counter(d)[term]
                scores[q, i] += idf * tf / (tf + k1 * (1 - b + b * len(d) / mean)) if df else 0.0
    return scores


def test_bm25_by_formula(root):
    source = open_source(root)
    queries = source.split("queries")
    name, scores = source.kinds["text"].classical_search(
        (s["text"] for s in source.fetch(range(30))), (s["text"] for s in queries.fetch(range(3)))
    )
    assert name == "BM25"
    asked = ["red apple sweet", "wet rain storm", "blue sea tide"]  # without the stop word
    np.testing.assert_allclose(scores, bm25(SENTENCES[:30], asked), atol=1e-4)


def test_figures_of_a_collection(root, tmp_path):
    source = open_source(root)
    run = made(source, tmp_path / "run", recipe="bert")
    assert default_task(source) == "retrieve"
    table = evaluate(run, root, pool="cls", recall=(5,))
    assert [row[0] for row in table.rows] == ["BM25", "raw input", "untrained encoder", "pre-trained encoder"]
    queries = source.split("queries")
    q, d = (embed(run, part, pool="cls") for part in (queries, source))
    gains = np.zeros((3, 30))
    for query, document, relevance in JUDGED:
        gains[query, document] = relevance
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for scores, gain in zip(unit(q) @ unit(d).T, gains):
        discount = 1 / np.log2(np.arange(2, 12))
        ideal = np.sort(gain)[::-1][:10]
        expected.append(100 * (gain[np.argsort(-scores)][:10] * discount).sum() / (ideal * discount).sum())
    assert table.rows[-1][1].mean == pytest.approx(np.mean(expected), abs=1e-4)
    # Claims score query by query, with the same figures.
    metric = Retrieve(pool="cls")
    documents, asked = metric.parts(source, np.arange(30))
    scores = metric.scores(Run.open(run.folder), documents, asked, precision="fp32")
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    assert metric.context(documents, asked, run.schema)["BM25"] == pytest.approx(table.rows[0][1].mean)


def test_what_is_refused(root, tmp_path):
    with pytest.raises(ClaimError, match="no collection for retrieval"):
        Retrieve().parts(open_source(SENTENCES), np.arange(5))
    (root / "qrels" / "test.tsv").unlink()
    source = open_source(root)
    run = made(source, tmp_path / "run", recipe="bert")
    with pytest.raises(DataError, match=r"no file of judgements in .*qrels"):
        evaluate(run, source, task="retrieve")
    rows = [json.loads(line) for line in (root / "corpus.jsonl").read_text().splitlines()]
    (root / "corpus.jsonl").write_text("".join(json.dumps({**row, "_id": "same"}) + "\n" for row in rows))
    with pytest.raises(DataError, match="30 texts with the _id 'same'"):
        open_source(root)
    (root / "corpus.jsonl").write_text('{"id": 1, "body": "one two three"}\n')
    with pytest.raises(DataError, match="a collection needs _id and text"):
        infer_schema(open_source(root))
