"""Lesson 17's figures on CIFAR-10: the recipe, what each step towards it is worth, and where the time goes.

    python benchmarks/speedrun.py record 0 1 2     the whole recipe, these seeds: up to 12 minutes each
    python benchmarks/speedrun.py quick85 0 1 2    the shortest way found to 85%; quick90: to 90%
    python benchmarks/speedrun.py published 0      the recipe of airbench94_muon, as it was published
    python benchmarks/speedrun.py steps [NAMES]    from Resnet2 to the recipe, one change at a time
    python benchmarks/speedrun.py quick85 0 --again 1   on pictures that went through JPEG once more
    python benchmarks/speedrun.py quick85 0 --deblock   with the edges of JPEG's blocks smoothed
    python benchmarks/speedrun.py quick85 0 --precision fp32   as on a processor without bf16
    python benchmarks/speedrun.py profile          where the time of a step goes, and the roofline

Add `--device cuda` for a graphics card; the profile is of processors alone. A cold start is a fresh process:
`seconds` of a recipe counts from the first line of this file to the last answer, with imports, reading the
pictures and the six views. It takes the set that `lessondl.datasets.cifar10` finds. Every row says on which
set and machine it was made, and takes the place of an older one of the same set and machine only.
"""
import time

START = time.perf_counter()

import argparse
import io
import json
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from machine import cifar10_name, machine, write_json
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lessondl.augment import Augment, flip, half_mirrored, pad_crop
from lessondl.cnn import NarrowConv2d, Resnet2, SpeedBlock, SpeedNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import (AlternateFlip, Callback, GrowingSize, Learner, Lookahead, Muon, Schedule,
                              Views, keep_memory, seed_everything)
from lessondl.metrics import accuracy
from lessondl.schedules import linear

RESULTS = Path(__file__).parent / 'results' / 'speedrun.json'
DECAY = [0., 4e-5, 0.2]                           # of SpeedNet.groups: filters, adders, dense layer
DEEP = 0, 2                                       # the blocks with a third convolution
PLAN = [(0.6, 24)]                                # share of the training, size of the smaller pictures
COMMON = dict(rate=0.17, pad=2, plan=PLAN, deep=DEEP, schedule='cosine')
RECIPES = {'record': COMMON | dict(epochs=19, batch=1250), 'quick90': COMMON | dict(epochs=7, batch=1000),
           'quick85': COMMON | dict(epochs=2, batch=500),
           # as airbench94_muon.py of github.com/KellerJordan/cifar10-airbench has it
           'published': COMMON | dict(epochs=8, batch=2000, rate=0.24, plan=[], deep=(), schedule='line')}

def rates(bs: int, filters: float) -> list[float]:
    "Of SpeedNet.groups: a step of Muon has a length of its own, the others go with the batch"
    return [filters, 0.053 * bs, 1e-5 * bs]

def jpeg_again(x: np.ndarray, times: int) -> np.ndarray:
    """Pictures [N,H,W,C] after `times` more encodings like the copy's, quality 75 and half the colour. They
    are moved by 4 pixels for it and back: on the old grid of blocks a second encoding would lose little"""
    for _ in range(times):
        out = np.empty_like(x)
        for i, picture in enumerate(np.roll(x, (4, 4), (1, 2))):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, 'JPEG', quality=75)
            out[i] = Image.open(file)
        x = np.roll(out, (-4, -4), (1, 2))
    return x

def deblocked(x: np.ndarray) -> np.ndarray:
    "Pictures [N,H,W,C] with half the jump between the two pixels on either side of JPEG's 8x8 blocks' edges"
    x = x.astype(np.float32)
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        for edge in range(8, len(x), 8):
            quarter = (x[edge] - x[edge - 1]) / 4
            x[edge - 1] += quarter
            x[edge] -= quarter
        x = np.moveaxis(x, 0, axis)
    return x.round().astype(np.uint8)

def load_data(seed: int, bs: int, alternate: bool, pad: int, change=lambda x: x) -> ImageData:
    "CIFAR-10 with every picture changed by `change`; mirrored in turn, or by a coin; moved by up to `pad`"
    train_x, train_y, test_x, *rest = cifar10()
    train_x, test_x = change(train_x), change(test_x)
    if alternate: train_x = half_mirrored(train_x, seed)
    moves = [(pad_crop, {'pad': pad})] if alternate else [(flip, {}), (pad_crop, {'pad': pad})]
    return ImageData.from_arrays(train_x, train_y, test_x, *rest, aug=Augment(moves), bs=bs,
                                 stats=cifar10_stats, seed=seed, valid_bs=1000, drop_last=True)

def some_pictures(data: ImageData, n: int = 5000) -> torch.Tensor:
    "The first training pictures as the net gets them, undisturbed [n,3,32,32]"
    small = ImageData.from_arrays(data.train.x[:n], data.train.y[:n], data.valid.x, data.valid.y, bs=n,
                                  stats=data.stats)
    return small.one_batch()[0]

def say_precision(learn: Learner):
    if learn.precision == 'fp32': print(f'no bf16 on this {learn.device.type}: computing in fp32', flush=True)

def recipe(name: str, seed: int, device: str, again: int = 0, deblock: bool = False,
           precision: str = 'auto') -> dict:
    c = RECIPES[name]
    seed_everything(seed)
    change = deblocked if deblock else partial(jpeg_again, times=again)
    data = load_data(seed, c['batch'], True, c['pad'], change)
    net = SpeedNet([64, 256, 256], 10, some_pictures(data), deep=c['deep'])
    data.valid, valid = None, data.valid              # a look at the test set after each epoch costs time
    learn = Learner(data, net, partial(F.cross_entropy, label_smoothing=0.2), Muon, metrics=[accuracy],
                    groups=SpeedNet.groups, device=device, precision=precision)
    if precision == 'auto': say_precision(learn)
    keep_memory()                                     # now, or what is gone by here would leave gaps
    lrs, n, cbs = rates(c['batch'], c['rate']), c['epochs'], [AlternateFlip(), GrowingSize(c['plan'])]
    if c['schedule'] == 'cosine': learn.fit(lrs, 1, cycle_len=n, wd=DECAY, cbs=cbs)
    else:
        falling = Schedule(learn.start(lrs, DECAY), linear(1, 0, n * learn.n_batches()))
        learn.run(n, [*learn.cbs, falling, *cbs], False)
    fitted = time.perf_counter()
    views = Learner(data, Views(net), metrics=[accuracy], device=device, precision=precision, progress=False)
    tta = views.validate(valid)[1]
    end = time.perf_counter()
    return dict(recipe=name, seed=seed, again=again, deblock=deblock, **c,
                accuracy=learn.validate(valid)[1], tta=tta, seconds=round(end - START, 1),
                tta_seconds=round(end - fitted, 1),
                epoch_seconds=[round(r['seconds'], 1) for r in learn.recorder.epochs],
                losses=[round(r['train_loss'], 4) for r in learn.recorder.epochs],
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                threads=torch.get_num_threads(), precision=learn.precision)

class DecoupledMuon(Muon):
    """Takes the decay from the weights directly and not through the momentum, and as much of it as arrives
    that way in the end: 1 / (1 - momentum) times as much"""
    @torch.no_grad()
    def step(self):
        decays = [group['weight_decay'] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays):
            group['weight_decay'] = 0.
            share = group['lr'] * decay / (1 - group['other_momentum'])
            for p in group['params']:
                if p.ndim != 4: p.mul_(1 - share)
        super().step()
        for group, decay in zip(self.param_groups, decays): group['weight_decay'] = decay

class PoolLate(SpeedBlock):
    "Norm and GELU pass over four times as many numbers"
    def forward(self, x):
        first = F.max_pool2d(self.act(self.norm1(self.conv1(x))), 2)
        x = self.act(self.norm2(self.conv2(first)))
        return self.act(first + self.norm3(self.conv3(x))) if self.deep else x

class ChannelsFirst(Callback):
    "Batches come with the channels last, and PyTorch would go on with that order"
    order = 50
    def before_batch(self, learn): learn.x = learn.x.contiguous()

def learned_groups(net: SpeedNet) -> list:
    "A first layer that learns is a convolution, and gets the rate of the others"
    convs, (stem, *norms), out = net.groups()
    return [[stem, *convs], norms, out]

# From lesson 09c's net to the recipe, one change after the other: (name, what changes). A change stays.
# Some change what belongs together; their names say what.
STEPS = [
    ('Resnet2, cosine descent from 0.01', dict(net='Resnet2', epochs=3, bs=256, call='descent', lr=0.01,
                                               wd=0., learned=True)),
    ('SpeedNet, all of it learned, ReLU', dict(net='SpeedNet', learned=True, plain=True, act=F.relu)),
    ('smaller pictures first', dict(plan=PLAN)),
    ('whitening', dict(learned=False)),
    ('convolutions start as the identity', dict(plain=False)),
    ('GELU', dict(act=F.gelu)),
    ('one cycle to 0.05', dict(call='one cycle', lr=0.05)),
    ('Nesterov, weight decay 5e-4', dict(nesterov=True, wd=5e-4)),
    ('label smoothing 0.2', dict(smoothing=0.2)),
    ('mirrored in turn, moved by 2 pixels', dict(alternate=True, pad=2)),
    ('batches of 2,000 at 0.15', dict(bs=2000, lr=0.15)),
    ('Muon, a rate and decay for each kind of parameter', dict(muon=Muon, call='descent',
                                                               lr=rates(2000, 0.24), wd=DECAY)),
    ('memory kept', dict(keep=True)),
    ('narrow pictures side by side', dict(narrow=NarrowConv2d.narrow)),
    ('a third convolution in two blocks', dict(deep=DEEP)),
    ('batches of 1,000', dict(bs=1000, lr=rates(1000, 0.17))),
    ('batches of 500', dict(bs=500, lr=rates(500, 0.17))),
]
# Each alone, on top of the last of STEPS
TRIES = [
    ('the first layer learned', dict(learned=True)), ('no identity start', dict(plain=True)),
    ('ReLU', dict(act=F.relu)), ('SiLU', dict(act=F.silu)), ('no label smoothing', dict(smoothing=0.)),
    ('mirrored by a coin', dict(alternate=False)), ('moved by 4 pixels', dict(pad=4)),
    ('32x32 from the start', dict(plan=[])), ('pooling after norm and GELU', dict(late=True)),
    ('192 filters in the second block', dict(layers=[64, 192, 256])),
    ('384 filters in the last block', dict(layers=[64, 256, 384])),
    ('decoupled weight decay', dict(muon=DecoupledMuon)), ('Lookahead', dict(lookahead=True)),
    ('channels first', dict(channels_last=False)), ('32 bits', dict(precision='fp32')),
]

def settings(name: str) -> dict:
    "All settings of a step or a try: what the steps before it changed, and its own"
    out = {}
    for step, change in STEPS:
        out |= change
        if step == name: return out
    if name in dict(TRIES): return out | dict(TRIES)[name]
    raise SystemExit(f"no step {name!r}; they are {', '.join(dict(STEPS + TRIES))}")

def step_net(c: dict, data: ImageData) -> nn.Module:
    if c['net'] == 'Resnet2': return Resnet2([16, 32, 64, 128, 256], 10, 0.2)
    net = SpeedNet(c.get('layers', [64, 256, 256]), 10, some_pictures(data), c['act'], c.get('deep', ()))
    if c['learned']: net.stem.weight.requires_grad_(True); net.stem.reset_parameters()
    for conv in net.groups()[0] if c['plain'] else (): conv.reset_parameters()
    for block in net.blocks if c.get('late') else (): block.__class__ = PoolLate     # the same layers
    return net

def step(name: str, seed: int, device: str) -> dict:
    c = settings(name)
    if c.get('keep'): keep_memory()
    NarrowConv2d.narrow = c.get('narrow', 0)
    seed_everything(seed)
    data = load_data(seed, c['bs'], c.get('alternate', False), c.get('pad', 4))
    net, muon, cbs = step_net(c, data), c.get('muon'), []
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=c.get('nesterov', False))
    loss = partial(F.cross_entropy, label_smoothing=c.get('smoothing', 0.))
    groups = (learned_groups if c['learned'] else SpeedNet.groups) if muon else None
    learn = Learner(data, net, loss, muon or sgd, groups=groups, precision=c.get('precision', 'auto'),
                    channels_last=c.get('channels_last', True), device=device)
    if c.get('precision') != 'fp32': say_precision(learn)
    if c.get('alternate'): cbs.append(AlternateFlip())
    if c.get('lookahead'): cbs.append(Lookahead())
    if 'plan' in c: cbs.append(GrowingSize(c['plan']))
    if not c.get('channels_last', True): cbs.append(ChannelsFirst())
    learn.data.valid, valid = None, learn.data.valid       # the time is that of training alone
    start, cpu = time.perf_counter(), time.process_time()
    if c['call'] == 'descent': learn.fit(c['lr'], 1, cycle_len=c['epochs'], wd=c['wd'], cbs=cbs)
    else: learn.fit_one_cycle(c['epochs'], c['lr'], wd=c['wd'], moms=(0.9, 0.9), cbs=cbs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    views = Learner(data, Views(net), precision=learn.precision, device=device, progress=False)
    tta, y = views.get_preds(valid)
    return dict(step=name, seed=seed, epochs=c['epochs'], accuracy=accuracy(*learn.get_preds(valid)),
                tta=accuracy(tta, y), seconds=round(seconds, 1), core_seconds=round(cpu, 1),
                threads=torch.get_num_threads(), precision=learn.precision)

# Which part of a training step an operator of PyTorch belongs to; what is left over is `rest`
PARTS = {'convolutions': 'conv', 'batch norm': 'batch_norm', 'GELU': 'gelu', 'pooling': 'pool|amax',
         'resizing': 'upsample', 'Muon': 'optimizer.step'}
WITH_PARTS = 'Optimizer.step', 'aten::max_pool2d_with_indices_backward'    # counted with what they call

def profile(size: int = 32, bs: int = 1000, precision: str = 'auto') -> dict:
    """Milliseconds of each part of a training step of the recipe on `size`x`size` pictures, the work in it,
    and what the machine's matrix multiplication reaches"""
    keep_memory()
    data = load_data(0, bs, True, 2)
    net = SpeedNet([64, 256, 256], 10, some_pictures(data), deep=DEEP)
    learn = Learner(data, net, partial(F.cross_entropy, label_smoothing=0.2), Muon, groups=SpeedNet.groups,
                    precision=precision, progress=False)
    batches = iter(data.train)
    cbs = [AlternateFlip()] + ([GrowingSize([(1., size)])] if size < 32 else [])
    def steps(some):                                 # a list of batches through the whole Learner
        learn.data = SimpleNamespace(train=some, valid=None)
        learn.fit(rates(bs, 0.17), 1, wd=DECAY, cbs=cbs)
    steps([next(batches) for _ in range(2)])
    start = time.perf_counter()
    some = [next(batches) for _ in range(5)]
    load_ms = (time.perf_counter() - start) / 5 * 1e3
    # The first round is for what happens once: the profiler's own start, memory that it moves
    with torch.profiler.profile(schedule=torch.profiler.schedule(wait=0, warmup=1, active=1)) as trace:
        steps(some)
        trace.step()
        start = time.perf_counter()
        steps(some)
        whole_ms = (time.perf_counter() - start) / 5 * 1e3
    parts = dict.fromkeys(PARTS, 0.)
    for e in trace.key_averages():
        part = next((p for p, names in PARTS.items() if re.search(names, e.key.lower())), None)
        if e.key.startswith(WITH_PARTS): parts[part] += e.cpu_time_total / 5e3
        elif part and e.key.startswith('aten::'): parts[part] += e.self_cpu_time_total / 5e3
    flops = flops_of_step(net, data.one_batch()[0][:100, :, :size, :size]) / 100 * bs
    peak = matmul_peak(torch.bfloat16 if learn.precision == 'bf16' else torch.float32)
    return dict(size=size, batch=bs, whole_ms=whole_ms + load_ms, loading=load_ms, **parts,
                rest=whole_ms - sum(parts.values()), gflop=flops / 1e9, matmul_gflops=peak,
                threads=torch.get_num_threads(), precision=learn.precision)

def flops_of_step(net: nn.Module, x: torch.Tensor) -> int:
    "Floating-point operations of the forward and backward pass, counted by PyTorch"
    with FlopCounterMode(display=False) as counter: net(x).sum().backward()
    net.zero_grad()
    return counter.get_total_flops()

def matmul_peak(dtype) -> float:
    "The best of some square matrix products, in 10^9 operations a second"
    rates = []
    for n in (1024, 1536, 2048, 3072, 4096):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            rates.append(2 * n ** 3 / (time.perf_counter() - start) / 1e9)
    return max(rates)

def load() -> dict: return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

def keep(part: str, row: dict, same: tuple, device: str = 'cpu'):
    """Put a row into its part of the file in place of an older one that has the same values of `same`, and
    the same set and machine"""
    new, what = load(), machine()
    where = f"{what['cpu']}, {what['cores']} cores" if device == 'cpu' else torch.cuda.get_device_name(device)
    row = dict(**row, data=cifar10_name(cifar10()[2]), machine=where)     # a TypeError if the row has these
    same += 'data', 'machine'
    rows = [r for r in new.get(part, []) if any(r[k] != row[k] for k in same)] + [row]
    names = list(dict(STEPS + TRIES))
    if part in ('steps', 'tries'): rows.sort(key=lambda r: (names.index(r['step']), r['seed']))
    if part == 'profile': rows.sort(key=lambda r: -r['size'])
    write_json(RESULTS, new | {part: rows, 'machines': new.get('machines', {}) | {where: what}})
    print(json.dumps(row), flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=[*RECIPES, 'steps', 'profile'])
    p.add_argument('names', nargs='*', help='seeds of a recipe, or names of steps')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--again', type=int, default=0)
    p.add_argument('--deblock', action='store_true')
    p.add_argument('--device', default='cpu')
    p.add_argument('--precision', choices=['auto', 'bf16', 'fp32'], default='auto')
    args = p.parse_args()
    if len(cifar10()[0]) < 50_000:
        raise SystemExit("speedrun.py measures on the real CIFAR-10 only: set LESSONDL_DATA to its folder")
    if args.what == 'profile':
        if args.device != 'cpu': raise SystemExit("the profile counts the processor's time: no --device")
        for size in (16, 24, 32):
            keep('profile', profile(size, precision=args.precision), ('size', 'precision'))
        return
    if args.what == 'steps' and args.precision != 'auto':
        raise SystemExit("--precision is for the recipes and the profile; among the steps it is '32 bits'")
    if args.what in RECIPES: tasks = [[n] for n in args.names or ['0']]
    else: tasks = [[n, '--seeds', str(k)] for k in args.seeds for n in args.names or dict(STEPS + TRIES)]
    if len(tasks) > 1:                                # each from a cold start: a process of its own
        options = ['--device', args.device, '--again', str(args.again), '--precision', args.precision,
                   *['--deblock'] * args.deblock]
        for task in tasks: subprocess.run([sys.executable, __file__, args.what, *task, *options], check=True)
    elif args.what == 'steps':
        name = tasks[0][0]
        row = step(name, args.seeds[0], args.device)
        keep('tries' if name in dict(TRIES) else 'steps', row, ('step', 'seed'), args.device)
    else:
        row = recipe(args.what, int(tasks[0][0]), args.device, args.again, args.deblock, args.precision)
        keep('runs', row, ('recipe', 'seed', 'again', 'deblock', 'precision'), args.device)

if __name__ == '__main__': main()
