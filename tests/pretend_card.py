"""A second device where there is none. `install()` registers `'card'`, whose tensors lie in ordinary memory
but keep to themselves as those of a graphics card do: an operation that mixes them with the processor's is
refused, so code that forgets to bring something over fails here, too. The sums are the processor's, with its
random numbers; autocast lowers products to bfloat16 as on a card. Not there: PyTorch's own LSTM and GRU,
which are fused on a card."""
import functools

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class CardTensor(torch.Tensor):
    "`held` is the same tensor on the processor"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device='card:0')

    def __init__(self, held): self.held = held
    def __repr__(self): return f'CardTensor({self.held})'
    def __reduce_ex__(self, protocol): return self.held.__reduce_ex__(protocol)     # read onto the processor
    def __deepcopy__(self, memo):
        copied = CardTensor(self.held.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter): copied._is_param = True
        return memo.setdefault(id(self), copied)
    def tolist(self): return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, *args, **kwargs or {})


def compute(func, *args, **kwargs):
    "The operation on what the tensors hold; its answers lie on the card, unless it asks for another device"
    own, others = {}, []
    def held(o):
        if isinstance(o, CardTensor):
            own[id(o.held)] = o
            return o.held
        if isinstance(o, torch.Tensor) and o.ndim: others.append(o)     # a single number may meet any
        return torch.device('cpu') if isinstance(o, torch.device) and o.type == 'card' else o

    to = kwargs.get('device')
    stays, name = to is None or torch.device(to).type == 'card', func._schema.name.removeprefix('aten::')
    held_args, held_kwargs = _pytree.tree_map(held, (args, kwargs))
    if own and others and name not in ('_to_copy', 'copy_', '_copy_from'):
        raise RuntimeError(f'{name}: some tensors are on the card and some on the processor')
    out = func(*held_args, **held_kwargs)
    if name == 'copy_': return args[0]
    def wrapped(o):
        if not isinstance(o, torch.Tensor): return o
        return own[id(o)] if id(o) in own else CardTensor(o) if stays else o     # in place: the same tensor
    return _pytree.tree_map(wrapped, out)


class Backend:
    "What PyTorch asks the module of a device for"
    def is_initialized(self): return True
    def is_available(self): return True
    def current_device(self): return 0
    def device_count(self): return 1
    def manual_seed_all(self, seed): pass
    def _is_in_bad_fork(self): return False
    def get_amp_supported_dtype(self): return [torch.bfloat16]


# What autocast computes in bfloat16, and what in float32: of PyTorch's lists for CUDA, what the library uses
LOWER = ['conv1d', 'conv2d', 'linear', 'matmul', 'mm', 'addmm', 'bmm', 'baddbmm']
FULL = ['log_softmax.int', 'softmax.int', 'nll_loss', 'cross_entropy_loss']
AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

def in_dtype(op, dtype, *args, **kwargs):
    "The operation, without autocast, on floats of `dtype`"
    def cast(o): return o.to(dtype) if isinstance(o, torch.Tensor) and o.is_floating_point() else o
    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST): return op(*_pytree.tree_map(cast, args), **kwargs)


@functools.cache
def install() -> list[torch.library.Library]:
    """Register the device, once in a process and before its first `backward`, which starts a thread for each
    device that there is. What it returns has to be kept, as the cache does"""
    _setup_privateuseone_for_python_backend('card', backend_module=Backend())
    rest, aten = torch.library.Library('_', 'IMPL'), torch.library.Library('aten', 'IMPL')
    rest.fallback(compute, 'PrivateUse1')
    rest.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')
    for name, dtype in [(n, torch.bfloat16) for n in LOWER] + [(n, torch.float32) for n in FULL]:
        packet, _, overload = name.partition('.')
        op = getattr(getattr(torch.ops.aten, packet), overload or 'default')
        aten.impl(name, functools.partial(in_dtype, op, dtype), 'AutocastPrivateUse1')
    return [rest, aten]
