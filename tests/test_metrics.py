"Metrics against an independent reckoning and, where it is installed, scikit-learn; what they refuse"

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lessondl.metrics import accuracy, error_rate, exp_rmspe, f2, f_beta


def f_beta_by_sets(pred, y, beta, threshold):
    "F-beta of each row with Python's sets, then the mean"
    scores = []
    for p, t in zip(pred, y):
        said, there = {i for i, v in enumerate(p) if v > threshold}, {i for i, v in enumerate(t) if v}
        both = len(said & there)
        precision, recall = both / len(said) if said else 0, both / len(there) if there else 0
        scores.append((1 + beta**2) * precision * recall / (beta**2 * precision + recall) if both else 0)
    return sum(scores) / len(scores)


tables = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float64, shape, elements=st.floats(0, 1)),
        arrays(np.int64, shape, elements=st.integers(0, 1)),
    )
)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([0.5, 1, 2, 3]), st.sampled_from([0.2, 0.5]))
def test_f_beta_is_the_mean_over_rows(table, beta, threshold):
    pred, y = table
    assert f_beta(pred, y, beta, threshold) == pytest.approx(
        f_beta_by_sets(pred, y, beta, threshold), abs=1e-6
    )


def test_f2_equals_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    pred, y = rng.random((300, 17)), (rng.random((300, 17)) < 0.2).astype(int)
    y[0] = 0  # a row without a label
    want = metrics.fbeta_score(y, pred > 0.2, beta=2, average='samples', zero_division=0)
    assert f2(pred, y) == pytest.approx(want, abs=1e-6)
    assert f2(torch.tensor(pred), torch.tensor(y)) == f2(pred, y)


@pytest.mark.parametrize('average', ['samples', 'macro', 'weighted', 'micro'])
@settings(max_examples=40, deadline=None)
@given(table=tables, beta=st.sampled_from([0.5, 1, 2]), threshold=st.sampled_from([0.0, 0.2, 0.5]))
def test_averages_are_scikit_learns(average, table, beta, threshold):
    metrics = pytest.importorskip('sklearn.metrics')
    pred, y = table
    if y.shape[1] == 1:  # one column is no table of labels to scikit-learn
        pred, y = np.hstack([pred, np.zeros_like(pred)]), np.hstack([y, np.zeros_like(y)])
    want = metrics.fbeta_score(y, pred > threshold, beta=beta, average=average, zero_division=0)
    assert f_beta(pred, y, beta, threshold, average=average) == pytest.approx(want, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int64, (7, 4), elements=st.integers(-100, 100), unique=True),
    arrays(np.int64, 7, elements=st.integers(0, 3)),
)
def test_accuracy_is_the_same_for_logits_and_probabilities(logits, y):
    logits = logits / 20  # apart by more than rounding, or softmax makes ties
    t = torch.tensor(logits)
    want = sum(int(row.argmax()) == label for row, label in zip(logits, y)) / 7
    for pred in (t, t.softmax(1), t.log_softmax(1), logits):
        assert accuracy(pred, y) == pytest.approx(want)
    assert error_rate(logits, y) == pytest.approx(1 - want)


def test_sequences_of_classes_have_an_accuracy():
    assert accuracy(torch.eye(3).expand(2, 3, 3), torch.arange(3).expand(2, 3)) == 1


@pytest.mark.parametrize(
    'metric, y',
    [
        (accuracy, torch.zeros(6, dtype=torch.long)),
        (error_rate, torch.zeros(6)),
        (f2, torch.zeros(6, 3)),
        (f2, torch.zeros(6, dtype=torch.long)),
    ],
)
def test_a_leading_augmentation_axis_is_named(metric, y):
    with pytest.raises(ValueError, match='mean over axis 0'):
        metric(torch.rand(5, 6, 3), y)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(4)), r'\[3, 2\] and \[4\]'),
        (lambda: accuracy(torch.zeros(0, 2), torch.zeros(0)), 'N at least 1'),
        (lambda: f2(torch.zeros(3, 2), torch.zeros(3, 3)), 'one shape'),
        (lambda: f2(torch.tensor([[-3.0, 2.0]]), torch.tensor([[0, 1]])), 'sigmoid'),
        (lambda: f2(torch.tensor([[math.nan, 0.5]]), torch.tensor([[0, 1]])), 'probabilities'),
        (lambda: f_beta(torch.zeros(2, 2), torch.zeros(2, 2), 1, average='mean'), 'samples, macro'),
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(3, 2)), 'take f2 or f_beta'),
        (lambda: exp_rmspe(torch.zeros(3), torch.zeros(4)), r'two vectors'),
        (lambda: exp_rmspe(torch.zeros(3, 2), torch.zeros(3, 2)), r'two vectors'),
        (lambda: exp_rmspe(np.zeros(3), [0.0, 0.0, -math.inf]), 'targets hold -inf in row 2, 1 such'),
        (lambda: exp_rmspe([0.0, math.nan], [0.0, 0.0]), 'predictions hold nan in row 1'),
        (lambda: exp_rmspe([math.inf, math.inf], [0.0, 0.0]), 'predictions hold inf in row 0, 2 such'),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_arrays_that_only_allow_reading_pass_without_a_warning():
    def fixed(*values):
        array = np.array(values)
        array.flags.writeable = False
        return array

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert exp_rmspe(fixed(0.0, 1.0), fixed(0.0, 1.0)) == 0
        assert accuracy(fixed([0.1, 0.9]), fixed(1)) == 1
        assert f2(fixed([0.1, 0.9]), fixed([0, 1])) == 1


def test_exp_rmspe_does_not_broadcast_a_column_against_a_row():
    pred, y = np.log([110.0, 90.0, 100.0]), np.log([100.0, 100.0, 100.0])
    want = math.sqrt((0.1**2 + 0.1**2) / 3)
    for p in (pred, pred[:, None], torch.tensor(pred)[:, None]):
        for t in (y, y[:, None], torch.tensor(y)):
            assert exp_rmspe(p, t) == pytest.approx(want)
