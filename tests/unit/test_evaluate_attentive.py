"""The attentive probe: against mean pooling and torch's attention, its rules, and its rows in task classify."""

import numpy as np
import pytest
import torch
from task_tools import Words, digits, made
from torch import nn

from anymask.evaluation import EvaluateError, attentive_probe, evaluate, linear_probe
from anymask.evaluation.attentive import AttentiveProbe, Scale, raw_tokens


@pytest.fixture(scope="module")
def needle():
    """Of 24 tokens one, at any place, has a mark and the sign that tells the class; the others have any sign."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = rng.normal(size=(400, 24, 6))
    place = rng.integers(0, 24, 400)
    x[:, :, 0], x[:, :, 1] = 0.1 * x[:, :, 0], 2 * np.sign(x[:, :, 1])
    x[np.arange(400), place, 0], x[np.arange(400), place, 1] = 8, 2 * (2 * y - 1)
    x = torch.from_numpy(x).to(torch.bfloat16)
    return x[:200], y[:200], x[200:], y[200:]


def test_the_signal_of_one_token_is_found_where_the_mean_has_lost_it(needle):
    x, y, test_x, test_y = needle
    pooled = linear_probe(x.float().mean(1).numpy(), y, test_x.float().mean(1).numpy(), test_y)
    found = attentive_probe(*needle)
    assert found.accuracy > 0.95 and pooled.accuracy < 0.8
    assert found.correct.mean() == pytest.approx(found.accuracy)


def test_it_is_attention_with_one_query():
    torch.manual_seed(0)
    x = torch.randn(3, 7, 8)
    query, key = torch.randn(2, 4), torch.randn(2, 8, 4)  # two heads
    probe = AttentiveProbe(8, 5, heads=2)
    with torch.no_grad():
        probe.directions.copy_(torch.einsum("hde,he->dh", key, query) / 4**0.5)
        nn.init.normal_(probe.head.weight)
        keys, values = torch.einsum("bkd,hde->bhke", x, key), torch.einsum("bkd,hde->bhke", x, probe.values)
        read = nn.functional.scaled_dot_product_attention(query[None, :, None].expand(3, -1, -1, -1), keys, values)
        expected = probe.head(probe.norm(read[:, :, 0].flatten(1)))
        assert torch.allclose(probe(x, torch.ones(3, 7, dtype=torch.bool)), expected, atol=1e-5)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(20, 5, 6)
    padded = torch.cat([x, torch.zeros(20, 3, 6)], 1)
    probe = AttentiveProbe(6, 3)
    nn.init.normal_(probe.directions)
    nn.init.normal_(probe.head.weight)
    one, two = (probe(*Scale(v)(v)) for v in (x, padded))
    assert torch.allclose(one, two, atol=1e-5)


def test_settings_are_chosen_without_the_test_part(needle):
    x, y, test_x, test_y = needle
    few = slice(0, 40)
    one, two = (attentive_probe(x[few], y[few], test_x, t) for t in (test_y, 1 - test_y))
    assert one.chosen == two.chosen and (one.predicted == two.predicted).all()
    assert two.accuracy == pytest.approx(1 - one.accuracy)


def test_one_label_a_class_and_any_numbers_as_labels(needle):
    x, y, test_x, test_y = needle
    first = np.array([np.flatnonzero(y == c)[0] for c in (0, 1)])
    found = attentive_probe(x[first], 10 * y[first] + 7, test_x, 10 * test_y + 7)
    assert set(found.predicted) <= {7, 17}


def test_errors_name_the_mend(needle):
    x, y, test_x, test_y = needle
    with pytest.raises(EvaluateError, match="at least two classes"):
        attentive_probe(x, np.zeros(200, int), test_x, test_y)
    with pytest.raises(EvaluateError, match="one a row"):
        attentive_probe(x, y[:-1], test_x, test_y)
    bad = x.clone()
    bad[3, 1, 1] = torch.nan
    with pytest.raises(EvaluateError, match="row 3"):
        attentive_probe(bad, y, test_x, test_y)
    with pytest.raises(EvaluateError, match="row 0 of the test part has no tokens"):
        attentive_probe(x, y, torch.zeros_like(test_x), test_y)


def test_raw_tokens_have_their_places():
    batch = {"image": torch.arange(64).view(1, 1, 8, 8)}

    class Model:
        tokenizer = Words(nn.Module())

    found = raw_tokens(Model, batch)
    assert found.shape == (1, 64, 4 + 1)
    assert torch.equal(found[0, :, 4], torch.arange(64.0)) and torch.equal(found[0, :, :4].sum(1), torch.ones(64))


def test_the_rows_of_the_task(tmp_path):
    data = digits(150)
    run = made(data, tmp_path)
    table = evaluate(run, data, labels=(2,), draws=1, probes="linear,attentive")
    assert [row[1] for row in table.rows] == ["linear probe", "attentive probe"] * 3
    assert table.rows[3][2:] == table.rows[5][2:]  # the weights are those of the start
    assert table.rows[1][2].mean > 20  # of raw tokens
    with pytest.raises(EvaluateError, match="there is: linear, knn, attentive"):
        evaluate(run, data, probes=("mlp",))
