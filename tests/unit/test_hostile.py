"""Hostile input to the reader of every kind: an error of anymask that names the mend, before anything expensive, or a
right result. How a valid source is written and spoiled is in `hostile.py`."""

import os
import re
import warnings

import numpy as np
import pytest
from hostile import OWN, SPOILS, VALID

from anymask.data import infer_schema, open_source
from anymask.data.kind import all_kinds
from anymask.errors import AnymaskError
from anymask.train import measure

KINDS = sorted(all_kinds())
KNOWN = [name for name in VALID if name.split()[0] in KINDS]
MENDS = re.compile(
    r"\b(add|change|chmod|choose|convert|cut|divide|download|export|give|install|leave|left out|look|lower|make|"
    r"mend|name|needs?|open|pass|put|raise|remove|replace|save|train|turn|use|write)\b|"
    r"does not exist|--\w+|\w+="
)
AS_ROOT = os.geteuid() == 0


class Outcome:
    """What became of a source: an error in words, or a batch with what was left out in words."""

    def __init__(self, spec, kind=None):
        self.error, self.batch, self.schema = None, {}, None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                source = open_source(spec, kind=kind)
                self.schema = infer_schema(source)
                self.batch = measure.first_batch(source, self.schema, min(len(source), 4))
                self.left = [*source.notes, *(": ".join(pair) for pair in source.skipped)]
            except AnymaskError as error:
                self.error = str(error)
        self.left = [] if self.error else [*self.left, *(str(w.message) for w in caught)]

    def clean(self, gaps):
        """Whether nothing that is not finite got as far as a batch."""
        values = [part for part in self.batch.values() if part.is_floating_point()]
        return all(not part.isinf().any() and (gaps or not part.isnan().any()) for part in values)


def judge(outcome, name, case):
    valid = VALID[name]
    if outcome.error is not None:
        assert MENDS.search(outcome.error), f"this error names no mend: {outcome.error}"
        assert len(outcome.error) < 900 and "Traceback" not in outcome.error
        return
    assert outcome.clean(valid.gaps), f"{case} reached a batch"
    fields = outcome.schema.fields.values()
    numbers = [v for field in fields for v in (field.low, field.high, *field.mean, *field.std)]
    assert np.isfinite(numbers).all(), f"{case} reached the schema: {numbers}"
    told = any("left out" in text for text in outcome.left)
    assert case in valid.bears or told, f"{case} was read without a word ({outcome.left}): mend it, or declare it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_entry(kind):
    assert kind in VALID, (
        f"the kind {kind!r} has no entry in tests/unit/hostile.py: add VALID[{kind!r}] = Valid(...) with a function "
        f"that writes a small valid source, and `wrong` with what is wrong in ways of its own ({', '.join(OWN)})"
    )


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_valid_is_read(name, tmp_path):
    """Else the other cases would show nothing."""
    valid = VALID[name]
    files = valid.write(tmp_path, valid.count)
    outcome = Outcome(valid.spec(tmp_path, files), name.split()[0] if valid.asked else None)
    assert outcome.error is None, outcome.error
    assert list(outcome.schema.fields) == name.split()[:1] and outcome.clean(valid.gaps)
    assert len(outcome.batch["index"]) >= all_kinds()[name.split()[0]].fewest
    assert not any("left out" in text for text in outcome.left), outcome.left


@pytest.mark.parametrize("case", SPOILS)
@pytest.mark.parametrize("name", KNOWN)
def test_a_spoiled_file(name, case, tmp_path):
    """Alone; and where a file is one sample, among others that are whole: these are read, and it is named."""
    if case == "no permission" and AS_ROOT:
        pytest.skip("root may read everything")
    valid = VALID[name]
    for alone in (True, False) if valid.each else (True,):
        root = tmp_path / str(alone)
        root.mkdir()
        files = valid.write(root, valid.count)
        for file in files if alone and valid.each else files[:1]:
            SPOILS[case]([file])
        outcome = Outcome(valid.spec(root, files), name.split()[0] if valid.asked else None)
        judge(outcome, name, case)
        if not alone and outcome.error is None and case not in valid.bears:
            assert any(files[0].name in text for text in outcome.left), outcome.left


@pytest.mark.parametrize("case", OWN)
@pytest.mark.parametrize("name", KNOWN)
def test_wrong_in_its_own_way(name, case, tmp_path):
    valid = VALID[name]
    if case not in valid.wrong:
        pytest.skip(f"not possible in a {name}")
    files = valid.write(tmp_path, valid.count)
    valid.wrong[case](files)
    judge(Outcome(valid.spec(tmp_path, files), name.split()[0] if valid.asked else None), name, case)


@pytest.mark.parametrize("name", KNOWN)
def test_one_single_sample(name, tmp_path):
    """An error, or enough for a run (a graph has many nodes, a sweep many windows)."""
    valid = VALID[name]
    outcome = Outcome(valid.spec(tmp_path, valid.write(tmp_path, 1)), name.split()[0] if valid.asked else None)
    if outcome.error is None:
        assert outcome.schema.count >= all_kinds()[name.split()[0]].fewest and outcome.clean(valid.gaps)
    else:
        assert MENDS.search(outcome.error), outcome.error


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in VALID])
def test_nothing_at_all(kind, tmp_path):
    """An empty folder, a path that is not there, and objects that hold Python objects where numbers should be."""
    np.save(tmp_path / "objects.npy", np.array([{}, [1], "a"], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, [1]], dtype=object))
    (tmp_path / "empty").mkdir()
    files = [tmp_path / name for name in ("empty", "nowhere", "objects.npy", "objects.npz")]
    objects = [np.array([{}, [1], "a"], dtype=object), np.zeros((4, 8, 8), dtype=complex), [None, None]]
    for spec in (*files, *objects):
        for asked in (kind, None):
            outcome = Outcome(spec, asked)
            assert outcome.error is not None and MENDS.search(outcome.error), (spec, asked, outcome.error)
