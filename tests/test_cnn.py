"The nets of lessons 09 to 09c: what the lessons' own cells do not show."
import copy

import pytest
import torch
from torch import nn

from lessondl.cnn import BatchNorm, BnLayer, ConvBnNet, ResnetLayer


def pair(nf, seed=0):
    "Our layer and PyTorch's with the same weights, none of them 1 or 0"
    torch.manual_seed(seed)
    theirs, ours = nn.BatchNorm2d(nf), BatchNorm(nf)
    with torch.no_grad(): theirs.weight.uniform_(0.5, 2); theirs.bias.uniform_(-1, 1)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize('inputs', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('weights', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_batch_norm_takes_every_dtype_and_gives_it_back(inputs, weights):
    ours, theirs = pair(6)
    ours = ours.to(weights)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        x = (torch.randn(8, 6, 5, 5) * 3 + 1).to(inputs)
        out = ours(x)
        assert out.dtype == inputs and all(b.dtype in (weights, torch.int64) for b in ours.buffers())
        coarse = {inputs, weights} & {torch.bfloat16, torch.float16}
        torch.testing.assert_close(out.float(), theirs(x.float()), atol=0.1 if coarse else 1e-4, rtol=0)
        for name in ('running_mean', 'running_var'):
            torch.testing.assert_close(getattr(ours, name).float(), getattr(theirs, name),
                                       atol=0.05 if coarse else 1e-4, rtol=0)


def test_a_net_in_64_bits_trains_as_with_pytorchs():
    ours, theirs = pair(6)
    grads = []
    for norm in (ours, theirs):
        torch.manual_seed(1)
        net = ConvBnNet([4, 6], 5)
        net.layers[0].norm = norm
        net.double()
        torch.manual_seed(2)
        net(torch.randn(4, 3, 8, 8, dtype=torch.float64))[:, 0].sum().backward()
        grads.append([p.grad for p in net.parameters()])
    assert len(grads[0]) == len(grads[1]) > 5
    for a, b in zip(*grads): torch.testing.assert_close(a, b)
    for a, b in zip(ours.buffers(), theirs.buffers()): torch.testing.assert_close(a, b)


@pytest.mark.parametrize('shape', [(4, 1, 5, 5), (4, 5, 5, 5), (4, 6, 5), (6,), (4, 6), (4, 6, 5, 5, 1)])
@pytest.mark.parametrize('training', [True, False])
def test_batch_norm_refuses_another_shape(shape, training):
    ours, _ = pair(6)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=r'BatchNorm\(6\) takes \[N,6,H,W\], not \[\d'):
        ours.train(training)(torch.randn(shape))
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize('args, said', [
    ((1, 10), 'ni=1, nf=10, stride=1'), ((10, 1), 'ni=10, nf=1'), ((10, 20, 1), 'ni=10, nf=20'),
    ((10, 10, 2), 'stride=2'), ((10, 10, 1, 2), 'kernel_size=2'), ((10, 10, 1, 4), 'kernel_size=4')])
def test_resnet_layer_refuses_what_cannot_be_added(args, said):
    with pytest.raises(ValueError, match=f'{said}.*take a BnLayer'): ResnetLayer(*args)


@pytest.mark.parametrize('kernel_size', [1, 3, 7])
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, BatchNorm])
@pytest.mark.parametrize('side', [2, 5])
def test_resnet_layer_is_x_and_a_bn_layer(kernel_size, norm, side):
    layer = ResnetLayer(10, 10, 1, kernel_size, norm)
    plain = BnLayer(10, 10, 1, kernel_size, norm)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 10, side, side)
    torch.testing.assert_close(layer(x), x + plain(x))
    assert ResnetLayer(10, 10)(x).shape == x.shape
