"`lessondl.convolution` against PyTorch over random shapes; errors; the receptive field against a gradient."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lessondl.convolution import conv2d, dense, kernels, max_pool2d, receptive_field, relu

few = st.integers(1, 4)
sides = st.integers(1, 9)
seeds = st.integers(0, 2**31)


def normal(seed: int, *shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), few, few, st.tuples(sides, sides), st.tuples(few, few), st.tuples(few, few),
       st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(), seeds)
def test_conv2d_is_that_of_torch(n, c, f, size, kernel, stride, padding, with_bias, seed):
    assume(all(s + 2*p >= k for s, p, k in zip(size, padding, kernel)))
    x, weight = normal(seed, n, c, *size), normal(seed + 1, f, c, *kernel)
    bias = normal(seed + 2, f) if with_bias else None
    got, expected = conv2d(x, weight, bias, stride, padding), F.conv2d(x, weight, bias, stride, padding)
    assert got.shape == expected.shape and got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if n: torch.testing.assert_close(conv2d(x[0], weight, bias, stride, padding), got[0])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), few, st.tuples(sides, sides), st.tuples(few, few),
       st.one_of(st.none(), few, st.tuples(few, few)), seeds)
def test_max_pool2d_is_that_of_torch(n, c, size, window, stride, seed):
    assume(all(s >= w for s, w in zip(size, window)))
    x = normal(seed, n, c, *size)
    got = max_pool2d(x, window, stride)
    assert torch.equal(got, F.max_pool2d(x, window, stride))
    assert torch.equal(max_pool2d(x[0], window, stride), got[0])


@settings(max_examples=50, deadline=None)
@given(few, few, few, st.booleans(), seeds)
def test_dense_and_relu_are_those_of_torch(n, n_in, n_out, with_bias, seed):
    x, weight, bias = normal(seed, n, n_in), normal(seed + 1, n_out, n_in), normal(seed + 2, n_out)
    if not with_bias: bias = None
    torch.testing.assert_close(dense(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(dense(x[0], weight, bias), dense(x, weight, bias)[0])
    assert torch.equal(relu(x), F.relu(x))


def test_one_number_stands_for_both_axes():
    x, weight = normal(0, 2, 3, 7, 8), normal(1, 4, 3, 3, 3)
    both = conv2d(x, weight, stride=(2, 2), padding=[1, 1])
    assert torch.equal(conv2d(x, weight, stride=2, padding=1), both)
    assert torch.equal(conv2d(x, weight, stride=np.int64(2)), conv2d(x, weight, stride=2))
    assert torch.equal(max_pool2d(x, 2), max_pool2d(x, (2, 2), (2, 2)))


def test_nan_is_not_swallowed():
    x = torch.tensor([[[float('nan'), 1.], [2., 3.]]])
    assert relu(x)[0, 0, 0].isnan() and max_pool2d(x, 2).isnan().all()


@settings(max_examples=30, deadline=None)
@given(few, few, st.integers(1, 3), st.integers(0, 2), seeds)
def test_the_gradient_is_that_of_torch(c, f, stride, padding, seed):
    x, weight, bias = normal(seed, 2, c, 6, 5), normal(seed + 1, f, c, 3, 2), normal(seed + 2, f)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    gradients = [torch.autograd.grad(fn(x, weight, bias, stride, padding).sin().sum(), leaves)
                 for fn in (conv2d, F.conv2d)]
    for ours, theirs in zip(*gradients): torch.testing.assert_close(ours, theirs)


@settings(max_examples=50, deadline=None)
@given(few, few, st.integers(1, 3), seeds)
def test_the_gradient_is_that_of_torch_where_numbers_are_equal(c, size, stride, seed):
    x = normal(seed, 2, c, 6, 5).round().requires_grad_()    # many zeros, and many windows with two largest
    for ours, theirs in ((relu, F.relu), (lambda x: max_pool2d(x, size, stride),
                                          lambda x: F.max_pool2d(x, size, stride))):
        pulls = normal(seed + 1, *ours(x).shape)
        got, expected = (torch.autograd.grad((pulls*fn(x)).sum(), x)[0] for fn in (ours, theirs))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.int64, torch.int32])
def test_other_types_are_as_in_torch(dtype):
    x, weight = (torch.randint(-3, 4, shape).to(dtype) for shape in ((2, 3, 6, 5), (4, 3, 3, 2)))
    for got, expected in ((conv2d(x, weight), F.conv2d(x, weight)), (relu(x), F.relu(x)),
                          (max_pool2d(x, 2), F.max_pool2d(x, 2)),
                          (dense(x.flatten(1), weight.view(4, 18).repeat(1, 5)),
                           F.linear(x.flatten(1), weight.view(4, 18).repeat(1, 5)))):
        assert got.dtype == dtype and torch.equal(got, expected)


def test_strided_views_and_empty_batches():
    x, weight = normal(0, 2, 3, 7, 8).transpose(2, 3), normal(1, 4, 3, 2, 3).flip(2).transpose(2, 3)
    torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))
    assert torch.equal(max_pool2d(x, 3, 2), F.max_pool2d(x, 3, 2))
    assert max_pool2d(x[:0], 2).shape == (0, 3, 4, 3)
    assert dense(x[:0, 0, 0], normal(2, 5, 7)).shape == (0, 5)


def test_the_input_is_left_as_it_was():
    x, weight = normal(0, 1, 2, 5, 5), normal(1, 3, 2, 3, 3)
    before = x.clone()
    conv2d(x, weight, padding=1).mul_(0); relu(x).mul_(0); max_pool2d(x, 1).mul_(0)
    assert torch.equal(x, before)


x, w = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3)

@pytest.mark.parametrize('call, says', [
    (lambda: conv2d(x, torch.rand(3, 3)), r'\[kernels, channels, rows, columns\].*\[3, 3\].*weight\[None'),
    (lambda: conv2d(x[0, 0], w), r'\[8, 8\].*x\[None\]'),
    (lambda: conv2d(x[:, :2], w), r'x has 2 channels but each kernel has 3.*\[4,2,3,3\]'),
    (lambda: conv2d(x, torch.rand(4, 3, 9, 3)), '9x3 does not fit into a picture of 8x8'),
    (lambda: conv2d(x, torch.rand(4, 3, 11, 11), padding=1), '11x11 does not fit into a picture of 10x10'),
    (lambda: conv2d(x, w, torch.rand(3)), r'one number for each kernel, shape \[4\], but it has \[3\]'),
    (lambda: conv2d((x*255).byte(), w), r'torch.uint8 but weight is torch.float32.*x.to\(weight.dtype\)'),
    (lambda: conv2d(x.double(), w), 'torch.float64 but weight is torch.float32'),
    (lambda: conv2d(x, w, torch.rand(4).double()), 'bias is torch.float64 but weight is torch.float32'),
    (lambda: conv2d(x.numpy(), w), r'x must be a tensor, but it is of type ndarray: take torch.tensor\(x\)'),
    (lambda: conv2d(x, [[[[1.]]]]), 'weight must be a tensor, but it is of type list'),
    (lambda: conv2d(x, w, stride=0), 'stride must be .* at least 1.*it is 0'),
    (lambda: conv2d(x, w, padding=-1), 'padding must be .* at least 0.*it is -1'),
    (lambda: conv2d(x, w, padding='same'), "padding must be .*it is 'same'"),
    (lambda: conv2d(x, w, stride=(1, 2, 3)), r'it is \(1, 2, 3\)'),
    (lambda: conv2d(x, w, stride=1.5), 'it is 1.5'),
    (lambda: max_pool2d(x, 9), '9x9 does not fit into a picture of 8x8'),
    (lambda: max_pool2d(x, 0), 'size must be .* at least 1'),
    (lambda: max_pool2d(x, 2, 0), 'stride must be .* at least 1'),
    (lambda: max_pool2d(x[0, 0], 2), r'\[8, 8\].*x\[None\]'),
    (lambda: dense(x, torch.rand(10, 192)), r'each output has 192 weights.*x.flatten\(1\)'),
    (lambda: dense(torch.rand(2, 5), torch.rand(5)), r'\[out, in\], but it has \[5\]'),
    (lambda: dense(torch.rand(2, 5), torch.rand(3, 5), torch.rand(5)), r'shape \[3\], but it has \[5\]'),
    (lambda: dense(torch.tensor(1.), torch.rand(3, 1)), r'x has the shape \[\]'),
    (lambda: dense(torch.zeros(2, 5).byte(), torch.rand(3, 5)), 'torch.uint8 .*x.to'),
    (lambda: dense(torch.rand(2, 5), torch.rand(3, 5).numpy()), 'weight must be a tensor'),
    (lambda: receptive_field([3, 1, 0]), r'\(kernel, stride, padding\).*a layer is 3'),
    (lambda: receptive_field([(3, 1)]), r'a layer is \(3, 1\)'),
    (lambda: receptive_field([(3, 1.5, 0)]), r'a layer is \(3, 1.5, 0\)'),
    (lambda: receptive_field([(3, 0, 0)]), r'a layer is \(3, 0, 0\)'),
])
def test_errors_say_what_to_do(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_kernels():
    assert list(kernels) == ['top edge', 'bottom edge', 'left edge', 'right edge', 'sharpen', 'blur',
                             'outline', 'emboss', 'identity']
    assert all(k.shape == (3, 3) and k.dtype == torch.float32 for k in kernels.values())
    even = torch.ones(1, 1, 3, 3)    # an even surface: 0 for the edges, itself for what keeps the picture
    sums = {name: conv2d(even, k[None, None]).item() for name, k in kernels.items()}
    assert sums == {'top edge': 0, 'bottom edge': 0, 'left edge': 0, 'right edge': 0, 'sharpen': 1, 'blur': 1,
                    'outline': 0, 'emboss': 1, 'identity': 1}
    light_below = torch.tensor([0., 0, 1])[:, None].expand(3, 3)
    assert (kernels['top edge']*light_below).sum() == 3 == (kernels['left edge']*light_below.T).sum()


chain = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)), max_size=4)

@settings(max_examples=100, deadline=None)
@given(chain)
def test_receptive_field_is_where_the_gradient_is(layers):
    size, jump, start = receptive_field(layers)
    n = size + 4*jump + 40
    x = torch.ones(1, 1, n, 1, requires_grad=True)
    out = x
    for k, s, p in layers: out = conv2d(out, torch.ones(1, 1, k, 1), stride=(s, 1), padding=(p, 0))
    for i in (0, out.shape[2]//2):
        seen = torch.autograd.grad(out[0, 0, i, 0], x, retain_graph=True)[0].flatten().nonzero().flatten()
        first, last = start + i*jump, start + i*jump + size - 1
        assert set(seen.tolist()) <= set(range(first, last + 1))
        reached = not any(s > k for k, s, p in layers)    # a stride longer than the kernel leaves gaps
        if reached and 0 <= first and last < n: assert (seen.min(), seen.max()) == (first, last)
