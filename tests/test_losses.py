"Losses against PyTorch's, values and gradients, for random shapes and extreme outputs; what they refuse"
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lessondl.losses import binary_cross_entropy, cross_entropy, log_softmax, one_hot, sigmoid, softmax

# how far apart the outputs are: nearly equal, as in a net, and far beyond what exp can hold
sizes = st.sampled_from([0., 1e-3, 1., 30., 100., 1000., 1e5, 1e30])
dtypes = st.sampled_from([torch.float32, torch.float64])
few = settings(max_examples=60, deadline=None)


@st.composite
def outputs(draw, shapes):
    "Random outputs, some of them equal, some put at an extreme"
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(draw(shapes), generator=g, dtype=draw(dtypes)) * draw(sizes) + draw(sizes)
    if x.numel() and draw(st.booleans()):
        x.view(-1)[::3] = draw(st.sampled_from([-1000., 0., 1000.]))
    return x


shapes = st.lists(st.integers(1, 5), min_size=0, max_size=4)
tables = st.tuples(st.integers(1, 6), st.integers(1, 7))


def same(ours, theirs, x):
    "Equal values and gradients, and none that is NaN"
    x = x.clone().requires_grad_()
    a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype and a.shape == b.shape and not a.isnan().any()
    eps = {torch.float32: 2e-6, torch.float64: 1e-13}[x.dtype]
    torch.testing.assert_close(a, b, rtol=eps, atol=eps)
    w = torch.linspace(-1, 2, a.numel(), dtype=a.dtype).view(a.shape)
    grads = [torch.autograd.grad((w * y).sum(), x)[0] for y in (a, b)]
    torch.testing.assert_close(*grads, rtol=10 * eps, atol=10 * eps)


@few
@given(outputs(shapes), st.data())
def test_softmax_and_its_log(x, data):
    dim = data.draw(st.integers(-max(x.ndim, 1), max(x.ndim, 1) - 1))
    same(lambda z: softmax(z, dim), lambda z: z.softmax(dim), x)
    same(lambda z: log_softmax(z, dim), lambda z: z.log_softmax(dim), x)
    p = softmax(x, dim)
    assert (p >= 0).all() and (p <= 1).all()
    torch.testing.assert_close(p.sum(dim), torch.ones_like(p.sum(dim)))
    torch.testing.assert_close(log_softmax(log_softmax(x, dim), dim), log_softmax(x, dim))


@few
@given(outputs(shapes))
def test_sigmoid(x):
    same(sigmoid, torch.sigmoid, x)
    torch.testing.assert_close(sigmoid(-x), 1 - sigmoid(x))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_sigmoid_of_infinity(dtype):
    x = torch.tensor([torch.inf, -torch.inf, 3.], dtype=dtype, requires_grad=True)
    y = sigmoid(x)
    y.sum().backward()
    assert y[:2].tolist() == [1, 0] and x.grad[:2].tolist() == [0, 0] and x.grad[2] > 0


@few
@given(outputs(tables), st.data(), st.sampled_from([torch.int64, torch.int32, torch.uint8]))
def test_cross_entropy(x, data, dtype):
    n, c = x.shape
    y = torch.tensor(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
    same(lambda z: cross_entropy(z, y.to(dtype)), lambda z: F.cross_entropy(z, y), x)
    x.requires_grad_()
    cross_entropy(x, y).backward()
    torch.testing.assert_close(x.grad, (softmax(x) - one_hot(y, c)).detach() / n, rtol=1e-5, atol=1e-6)


@few
@given(outputs(shapes), st.data())
def test_binary_cross_entropy(x, data):
    t = data.draw(st.lists(st.sampled_from([0., 0., 1., 1., 0.3]), min_size=x.numel(), max_size=x.numel()))
    t = torch.tensor(t, dtype=x.dtype).view(x.shape)
    same(lambda z: binary_cross_entropy(z, t), lambda z: F.binary_cross_entropy_with_logits(z, t), x)
    whole = t.round()
    for other in (whole.int(), whole.bool(), whole.half()):
        assert torch.equal(binary_cross_entropy(x, other), binary_cross_entropy(x, whole))


@few
@given(st.lists(st.integers(0, 4), max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_one_hot(shape, n, seed):
    y = torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(one_hot(y, n), F.one_hot(y, n))
    assert one_hot(y, n).dtype == torch.int64
    assert torch.equal(one_hot(y, n).argmax(-1), y)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_gradients_at_the_extremes(dtype):
    big = torch.tensor([1000., -1000, 0, 88, -88, 710, -710], dtype=dtype)
    for ours, theirs in ((sigmoid, torch.sigmoid), (softmax, lambda z: z.softmax(-1)),
                         (log_softmax, lambda z: z.log_softmax(-1))):
        same(ours, theirs, big)
    for t in (torch.zeros_like(big), torch.ones_like(big)):
        same(lambda z, t=t: binary_cross_entropy(z, t),
             lambda z, t=t: F.binary_cross_entropy_with_logits(z, t), big)
    for k in range(7):
        y = torch.tensor([k])
        same(lambda z, y=y: cross_entropy(z[None], y), lambda z, y=y: F.cross_entropy(z[None], y), big)


def test_gradients_by_finite_differences():
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y, t = torch.tensor([0, 3, 3]), torch.eye(4, dtype=torch.float64)[:3]
    for f in (softmax, log_softmax, sigmoid,
              lambda z: cross_entropy(z, y), lambda z: binary_cross_entropy(z, t)):
        assert torch.autograd.gradcheck(f, x)


def test_an_output_may_be_shut_off_by_minus_infinity():
    x = torch.tensor([[1., -torch.inf, 2.]])
    ours, theirs = softmax(x), x.softmax(-1)
    torch.testing.assert_close(ours, theirs)
    assert ours[0, 1] == 0
    assert log_softmax(x)[0, 1] == -torch.inf
    torch.testing.assert_close(cross_entropy(x, torch.tensor([0])), F.cross_entropy(x, torch.tensor([0])))


def test_nan_in_nan_out():
    x = torch.tensor([[1., torch.nan, 2.]])
    for y in (softmax(x), log_softmax(x), sigmoid(x)[0, 1], cross_entropy(x, torch.tensor([0]))):
        assert y.isnan().all()


@pytest.mark.parametrize('dtype, eps', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision(dtype, eps):
    x = torch.linspace(-9, 9, 12, dtype=dtype).view(3, 4)
    y, t = torch.tensor([0, 3, 1]), torch.eye(4, dtype=dtype)[:3]
    for ours, theirs in ((softmax(x), x.softmax(-1)), (log_softmax(x), x.log_softmax(-1)),
                         (sigmoid(x), x.sigmoid()), (cross_entropy(x, y), F.cross_entropy(x, y)),
                         (binary_cross_entropy(x, t), F.binary_cross_entropy_with_logits(x, t))):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=eps, atol=eps)


def test_arrays_and_strided_views():
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).T
    y = torch.tensor([0, 3, 1])
    torch.testing.assert_close(cross_entropy(x, y), F.cross_entropy(x, y))
    assert torch.equal(cross_entropy(x.numpy(), y.numpy()), cross_entropy(x, y))
    assert torch.equal(softmax(x.numpy()), softmax(x))
    assert torch.equal(one_hot([0, 3, 1], 4), one_hot(y, 4))
    assert softmax(x[:0]).shape == (0, 4)


row = torch.zeros(2, 3)


@pytest.mark.parametrize('call, says', [
    (lambda: softmax(torch.tensor([1, 2])), 'x must be floats, but they are torch.int64'),
    (lambda: log_softmax(torch.tensor([True])), 'x must be floats'),
    (lambda: sigmoid(torch.tensor(1)), r'x\.float\(\)'),
    (lambda: softmax(torch.zeros(2, 0)), 'at least one number along dim -1'),
    (lambda: log_softmax(torch.zeros(0, 2), 0), 'at least one number along dim 0'),
    (lambda: one_hot(torch.tensor([0, 3]), 3), 'from 0 to 2 for 3 classes, but one is 3'),
    (lambda: one_hot(torch.tensor([-1]), 3), 'but one is -1'),
    (lambda: one_hot(torch.tensor([200], dtype=torch.uint8), 3), 'but one is 200'),
    (lambda: one_hot(torch.tensor([0.]), 3), 'integers, but they are torch.float32'),
    (lambda: cross_entropy(row, torch.tensor([0, 3])), 'from 0 to 2 for 3 classes, but one is 3'),
    (lambda: cross_entropy(row, torch.tensor([0, -100])), 'but one is -100'),
    (lambda: cross_entropy(row, torch.tensor([0., 1.])), r'labels\.long\(\)'),
    (lambda: cross_entropy(row, torch.tensor([True, False])), 'class numbers'),
    (lambda: cross_entropy(row, torch.zeros(2, 3)), r'labels\.argmax\(1\)'),
    (lambda: cross_entropy(row, torch.tensor([0])), r'got \[2, 3\] and \[1\]'),
    (lambda: cross_entropy(row[0], torch.tensor(0)), r'logits \[N,C\]'),
    (lambda: cross_entropy(row[:0], torch.zeros(0, dtype=torch.long)), 'at least one row'),
    (lambda: cross_entropy(row.int(), torch.tensor([0, 1])), 'logits must be floats'),
    (lambda: binary_cross_entropy(row, torch.zeros(2)), 'one target for each logit'),
    (lambda: binary_cross_entropy(row, row + 2), 'go from 2 to 2'),
    (lambda: binary_cross_entropy(row, row - 1), 'from 0 to 1'),
    (lambda: binary_cross_entropy(row, row * torch.nan), 'from 0 to 1'),
    (lambda: binary_cross_entropy(row[:0], row[:0]), 'at least one'),
    (lambda: binary_cross_entropy(row.int(), row), 'logits must be floats'),
])
def test_what_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_dim_that_is_not_there_names_the_range():
    with pytest.raises(IndexError, match='expected to be in range'):
        softmax(row, 2)
