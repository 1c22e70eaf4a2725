"""Task `retrieve`: measures by hand on small judgements, rankings, labels as judgements, files of judgements."""

import numpy as np
import pytest
from task_tools import digits, made

from anymask.data import DataError
from anymask.evaluation import EvaluateError, embed, evaluate
from anymask.evaluation.inputs import raw_input
from anymask.evaluation.tasks.retrieve import ranking, read_qrels

ir_measures = pytest.importorskip("ir_measures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made("digits", tmp_path_factory.mktemp("run"))


def by_hand(queries, documents, relevant):
    """nDCG@10, average precision and recall@3 of each query; `relevant` (M, N) holds relevances."""
    out = []
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    for q, gains in zip(unit(queries), relevant):
        ranked = gains[np.argsort(-(unit(documents) @ q))]
        discount = 1 / np.log2(np.arange(2, len(ranked) + 2))
        best = np.sort(gains)[::-1]
        hits = ranked > 0
        precision = hits.cumsum() / np.arange(1, len(ranked) + 1)
        out.append([
            (ranked * discount)[:10].sum() / (best * discount)[:10].sum(),
            (precision * hits).sum() / hits.sum(),
            hits[:3].sum() / hits.sum(),
        ])  # fmt: skip
    return 100 * np.array(out)


def test_figures_by_hand(run):
    queries, documents = digits(6), digits(25, seed=1)
    relevant = np.random.default_rng(0).integers(0, 3, (6, 25))
    ids = [(q, d, relevant[i, j]) for i, q in enumerate(queries.ids) for j, d in enumerate(documents.ids)]
    table = evaluate(run, queries, task="retrieve", corpus=documents, qrels=ids, recall=(3,))
    assert table.columns == ("features", "nDCG@10", "MAP", "recall@3")
    for name, make in (
        ("raw input", lambda s: raw_input(s, run.schema)),
        ("pre-trained encoder", lambda s: embed(run, s)),
    ):
        theirs = by_hand(make(queries), make(documents), relevant)
        row = next(row for row in table.rows if row[0] == name)
        assert [cell.mean for cell in row[1:]] == pytest.approx(theirs.mean(0).tolist())
        half = 2.5706 * theirs[:, 0].std(ddof=1) / 6**0.5  # Student's t of five degrees
        assert row[1].high - row[1].mean == pytest.approx(half, rel=1e-3)


def test_labels_say_what_is_relevant(run):
    train, test = digits(150), digits(40, seed=1)
    table = evaluate(run, train, test=test, task="retrieve", recall=(3,))
    same = (test.labels[:, None] == train.labels).astype(int)
    theirs = by_hand(raw_input(test, run.schema), raw_input(train, run.schema), same).mean(0)
    assert [cell.mean for cell in table.rows[0][1:]] == pytest.approx(theirs.tolist())
    assert table.rows[1][1:] == table.rows[2][1:]  # the weights are those of the start
    fewer = evaluate(run, train, test=test, task="retrieve", queries=10, documents=50)
    assert "10 queries" in fewer.title and any("50 random documents of 150" in note for note in fewer.notes)


def test_rankings():
    queries = np.array([[1.0, 0.0], [np.nan, 0.0]])
    documents = np.array([[0.0, 2.0], [np.nan, 1.0], [3.0, 0.1], [1.0, 1.0]])
    (found,) = ranking(queries, documents).values()
    assert list(found) == ["2", "3", "0"] and found["3"] == pytest.approx(0.5**0.5)
    shifted = ranking(queries[:1] + 100, documents + 100, centre=True)
    assert list(shifted["0"]) == list(ranking(queries[:1], documents, centre=True)["0"])


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_files_of_judgements(tmp_path, ending):
    mark = "," if ending == "csv" else "\t"
    file = tmp_path / f"qrels.{ending}"
    rows = (["query-id", "corpus-id", "score"], ["a", "x", "2"], ["a", "y", "0"])
    file.write_text("\n".join(mark.join(row) for row in rows))
    assert read_qrels(file) == {"a": {"x": 2, "y": 0}}


def test_errors_name_the_mend(run, tmp_path):
    some = digits(20)
    with pytest.raises(EvaluateError, match="go together"):
        evaluate(run, some, task="retrieve", corpus=some)
    with pytest.raises(DataError, match=r"ids there are as 'a' and 'b', in the sources as '\d+'"):
        evaluate(run, some, task="retrieve", corpus=some, qrels=[("a", "b", 1)])
    with pytest.raises(DataError, match="row 1 is"):
        evaluate(run, some, task="retrieve", corpus=some, qrels=[("a", "b", "much")])
    with pytest.raises(DataError, match="file of judgements"):
        evaluate(run, some, task="retrieve", corpus=some, qrels=tmp_path / "none.tsv")
    with pytest.raises(EvaluateError, match="ranks from 1 on"):
        evaluate(run, some, task="retrieve", recall=(0,))
    with pytest.raises(DataError, match="no labels"):
        evaluate(run, np.zeros((20, 8, 8), np.float32) + np.arange(8, dtype=np.float32), task="retrieve")
