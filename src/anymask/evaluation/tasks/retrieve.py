"""Finding what belongs to a query."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anymask.data import DataError, Schema, Source, infer_schema
from anymask.data.kind import kind_of
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import Pool
from anymask.evaluation.inputs import features_of, parts_of
from anymask.evaluation.tasking import opened
from anymask.run import Run
from anymask.table import Table, interval

DEPTH = 1000  # documents of a ranking that are scored, as trec_eval does
Qrels = dict[str, dict[str, int]]  # query -> document -> relevance


class Search(NamedTuple):
    """Queries, documents, and what is relevant to what; numbers of samples, as text, name both."""

    queries: Source
    documents: Source
    qrels: Qrels
    notes: list[str]


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    corpus: object | None = None,
    qrels: object | None = None,
    recall: Sequence[int] = (10, 100),
    centre: bool = False,
    queries: int = 1000,
    documents: int = 10_000,
    pool: str | Pool = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """nDCG@10, mean average precision and recall in % of finding documents by the cosine of their features.

    A collection for retrieval (a source with a split `queries` that comes with judgements) is measured as it is.
    Otherwise, without `qrels`, queries are the test samples, documents the training samples, and those of the query's
    label are relevant. With it, `source` holds the queries and `corpus` the documents. Figures are ir-measures' means
    over queries with a relevant document, with their 95 % intervals (Student's t over queries); rankings are cut at
    1,000 documents. Beside features stands what the kind of data has as its classical search engine (BM25 for texts).

    Args:
        source: labelled, or the queries. test: the labelled queries; None = the source's own test split, or a fifth.
        corpus: a source, or what `open_source` takes: the documents that `qrels` names.
        qrels: a .csv or .tsv file with a header and the columns query id, document id, relevance (a number, 0 = not),
            or rows of these three. Ids are those of the sources: file names, or numbers of rows.
        recall: ranks that recall is taken at.
        centre: subtract the mean feature of the documents first.
        queries, documents: at most so many, a random choice; only where labels say what is relevant.
        pool: see `embed`.

    Raises:
        DataError: no labels, or ids that are in no source. EvaluateError: qrels without corpus, or ir-measures is not
            there.
    """
    try:
        import ir_measures
    except ImportError:
        raise EvaluateError('retrieval needs ir-measures: pip install "anymask[retrieval]"') from None
    if (corpus is None) != (qrels is None):
        raise EvaluateError("corpus= and qrels= go together: the documents, and which are relevant to which query")
    if not recall or min(recall) < 1:
        raise EvaluateError(f"recall is taken at ranks from 1 on, as [10, 100], not {list(recall)}")
    if corpus is None and "queries" in source.splits:
        asked = source.split("queries")
        search = _by_qrels(run, asked, source, read_qrels(asked.judged))
    elif corpus is None:
        search = _by_label(run, source, test, queries, documents, seed)
    else:
        search = _by_qrels(run, source, opened(run, corpus), read_qrels(qrels))
    measures = [ir_measures.nDCG @ 10, ir_measures.AP @ DEPTH, *(ir_measures.R @ k for k in recall)]
    rows: list[Sequence[Any]] = []

    def add(name: str, ranked: Qrels) -> None:
        by_measure: dict[Any, list[float]] = {measure: [] for measure in measures}
        for metric in ir_measures.iter_calc(measures, search.qrels, ranked):
            by_measure[metric.measure].append(100 * metric.value)
        rows.append((name, *(interval(np.array(by_measure[m])) for m in measures)))

    for name, scores in classical(search, run.schema):
        add(name, best(scores))
    for name, (of_documents, of_queries) in features_of(
        run, search.documents, search.queries, pool, batch_size, progress
    ):
        add(name, ranking(of_queries, of_documents, centre=centre))
    columns = ("features", "nDCG@10", "MAP", *(f"recall@{k}" for k in recall))
    notes = [*search.notes, f"cosine of {'centred ' * centre}features, pooled by {pool!r}" * isinstance(pool, str)]
    title = f"retrieval in %: {len(search.qrels):,} queries of {search.queries.name}, {run.recipe.slug}"
    return Table(columns, rows, title=title, notes=[note for note in notes if note])


def ranking(queries: np.ndarray, documents: np.ndarray, *, centre: bool = False) -> Qrels:
    """The 1,000 documents (N, ...) nearest to each query (M, ...) by cosine: query -> document -> cosine, both by their
    numbers as text. Rows of NaN, samples that could not be read, are left out."""
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in (queries, documents)]
    there = [np.flatnonzero(~np.isnan(x).any(1)) for x in flat]
    mean = flat[1][there[1]].mean(0) if centre else 0.0
    q, d = (_unit(x[rows] - mean) for x, rows in zip(flat, there))
    names = [str(i) for i in there[1]]
    found: Any = {}
    for start in range(0, len(q), 256):
        near = best(q[start : start + 256] @ d.T)
        for row, order in near.items():
            found[str(there[0][start + int(row)])] = {names[int(i)]: cosine for i, cosine in order.items()}
    return found


def best(scores: np.ndarray) -> Qrels:
    """The 1,000 documents with the highest of the scores (M, N): query -> document -> score, both by their numbers."""
    orders = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return {str(q): {str(i): float(row[i]) for i in order} for q, (row, order) in enumerate(zip(scores, orders))}  # type: ignore[misc]


def classical(search: Search, schema: Schema) -> Iterator[tuple[str, np.ndarray]]:
    """(name, scores (queries, documents)) of the classical search engine of each part that has one."""
    for name, field in schema.fields.items():
        documents, queries = (_as_stored(part, name) for part in (search.documents, search.queries))
        found = kind_of(field.kind).classical_search(documents, queries)
        if found is not None:
            yield found


def _as_stored(source: Source, part: str) -> Iterator[Any]:
    """The values of a part, read one by one where an engine asks for them; None where one is missing."""
    return (source.columns[part].read(int(row)) for row in source.rows)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _by_label(run: Run, source: Source, test: Source | None, queries: int, documents: int, seed: int) -> Search:
    train, held, notes = parts_of(run, source, test, seed)
    rng = np.random.default_rng(seed)
    parts = []
    for part, most, what in ((held, queries, "queries"), (train, documents, "documents")):
        if len(part) > most:
            notes.append(f"{most:,} random {what} of {len(part):,}")
            part = part.subset(np.sort(rng.permutation(len(part))[:most]))
        parts.append(part)
    held, train = parts
    assert held.labels is not None and train.labels is not None
    members = {c: {str(i): 1 for i in np.flatnonzero(train.labels == c)} for c in np.unique(train.labels)}
    qrels = {str(i): members[c] for i, c in enumerate(held.labels) if c in members}
    return Search(held, train, qrels, [*notes, f"{len(train):,} documents; those of the query's label are relevant"])


def _by_qrels(run: Run, queries: Source, documents: Source, given: Qrels) -> Search:
    run.schema.check(infer_schema(documents))
    return search_of(queries, documents, given)


def search_of(queries: Source, documents: Source, given: Qrels) -> Search:
    """Judgements by the numbers of the samples.

    Raises:
        DataError: they name no query with a relevant document.
    """
    of_query, of_document = ({name: str(i) for i, name in enumerate(s.ids)} for s in (queries, documents))
    qrels: Qrels = {}
    lost = 0
    for query, relevant in given.items():
        known = {of_document[d]: r for d, r in relevant.items() if d in of_document}
        lost += len(relevant) - len(known)
        if query in of_query and any(r > 0 for r in known.values()):
            qrels[of_query[query]] = known
    if not qrels:
        raise DataError(
            f"qrels name no query of {queries.name} with a relevant document of {documents.name}: ids there are as "
            f"{next(iter(given))!r} and {next(iter(next(iter(given.values()))))!r}, in the sources as "
            f"{queries.id_of(0)!r} and {documents.id_of(0)!r}"
        )
    notes = [f"{len(documents):,} documents; {len(qrels):,} of {len(queries):,} queries have a relevant one"]
    if lost:
        notes.append(f"{lost:,} judgements name no document of the corpus")
    return Search(queries, documents, qrels, notes)


def read_qrels(given: Any) -> Qrels:
    """Judgements from a file or rows (query id, document id, relevance).

    Raises:
        DataError: no such file, another form, or a relevance that is no whole number.
    """
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if path.is_dir() or path.name == "qrels":
            raise DataError(f"there is no file of judgements in {path}; a collection has them as qrels/test.tsv")
        if path.suffix not in (".csv", ".tsv") or not path.is_file():
            raise DataError(f"{path} is no .csv or .tsv file of judgements: query id, document id, relevance, a header")
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[Any] = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))[1:]
        what = path.name
    else:
        rows, what = list(given), "qrels"
    found: Qrels = {}
    for number, row in enumerate(rows, 1):
        try:
            query, document, relevance = row
            found.setdefault(str(query), {})[str(document)] = int(relevance)
        except (TypeError, ValueError):
            raise DataError(
                f"{what} row {number} is {row}; give query id, document id and relevance, a whole number"
            ) from None
    if not found:
        raise DataError(f"{what} holds no judgement; give rows of query id, document id, relevance")
    return found
