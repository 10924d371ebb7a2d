"""Lesson 17's figures on CIFAR-10: the recipe, what each step towards it is worth, and where the time goes.

    python benchmarks/speedrun.py record 0 1 2     the whole recipe, these seeds: up to 12 minutes each
    python benchmarks/speedrun.py quick85 0 1 2    the shortest way found to 85%; quick90: to 90%
    python benchmarks/speedrun.py steps [NAMES]    from Resnet2 to the recipe, one change at a time
    python benchmarks/speedrun.py quick85 0 --again 1   on pictures that went through JPEG once more
    python benchmarks/speedrun.py profile          where the time of a step goes, and the roofline

Add `--device cuda` for a graphics card. A cold start is a fresh process: `seconds` of a recipe counts from
the first line of this file to the last answer, with imports, reading the pictures and the six views.
It takes the set that `lessondl.datasets.cifar10` finds, and writes down which one that was.
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

from lessondl.augment import Augment, half_mirrored, pad_crop
from lessondl.cnn import NarrowConv2d, Resnet2, SpeedNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import (AlternateFlip, GrowingSize, Learner, Lookahead, Muon, Views, keep_memory,
                              seed_everything)
from lessondl.metrics import accuracy

RESULTS = Path(__file__).parent / 'results' / 'speedrun.json'
DECAY = [0., 4e-5, 0.2]                           # of SpeedNet.groups: filters, adders, dense layer
DEEP = 0, 2                                       # the blocks with a third convolution
PLAN = [(0.6, 24)]                                # share of the training, size of the smaller pictures
# epochs, batch size, rate of the filters, pixels by which the pictures are moved
RECIPES = {'record': (19, 1250, 0.17, 2), 'quick90': (7, 1000, 0.17, 2), 'quick85': (2, 500, 0.17, 2)}

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

def load_data(seed: int, bs: int, alternate: bool, again: int = 0, pad: int = 2) -> ImageData:
    train_x, train_y, test_x, *rest = cifar10()
    train_x, test_x = jpeg_again(train_x, again), jpeg_again(test_x, again)
    rest = train_y, test_x, *rest
    if alternate: train_x, aug = half_mirrored(train_x, seed), Augment([(pad_crop, {'pad': pad})])
    else: aug = 'flip+crop'
    return ImageData.from_arrays(train_x, *rest, aug=aug, bs=bs, stats=cifar10_stats, seed=seed,
                                 valid_bs=1000, drop_last=True)

def some_pictures(data: ImageData, n: int = 5000) -> torch.Tensor:
    "The first training pictures as the net gets them, undisturbed [n,3,32,32]"
    small = ImageData.from_arrays(data.train.x[:n], data.train.y[:n], data.valid.x, data.valid.y, bs=n,
                                  stats=data.stats)
    return small.one_batch()[0]

def recipe(name: str, seed: int, device: str, again: int = 0) -> dict:
    epochs, bs, lr, pad = RECIPES[name]
    seed_everything(seed)
    data = load_data(seed, bs, alternate=True, again=again, pad=pad)
    net = SpeedNet([64, 256, 256], 10, some_pictures(data), deep=DEEP)
    data.valid, valid = None, data.valid              # a look at the test set after each epoch costs time
    learn = Learner(data, net, partial(F.cross_entropy, label_smoothing=0.2), Muon, metrics=[accuracy],
                    groups=SpeedNet.groups, device=device)
    keep_memory()                                     # now, or what is gone by here would leave gaps
    learn.fit(rates(bs, lr), 1, cycle_len=epochs, wd=DECAY, cbs=[AlternateFlip(), GrowingSize(PLAN)])
    fitted = time.perf_counter()
    views = Learner(data, Views(net), metrics=[accuracy], device=device, progress=False)
    tta = views.validate(valid)[1]
    end = time.perf_counter()
    return dict(recipe=name, seed=seed, again=again, epochs=epochs, batch=bs, rate=lr, pad=pad, plan=PLAN,
                accuracy=learn.validate(valid)[1], tta=tta, seconds=round(end - START, 1),
                tta_seconds=round(end - fitted, 1),
                epoch_seconds=[round(r['seconds'], 1) for r in learn.recorder.epochs],
                losses=[round(r['train_loss'], 4) for r in learn.recorder.epochs],
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                threads=torch.get_num_threads(), precision=learn.precision, device=device)

# One change at a time, from lesson 09c's net to the recipe: (name, what changes). A change stays.
STEPS = [
    ('Resnet2, cosine descent from 0.01', dict(net='Resnet2', epochs=3, bs=256, call='descent', lr=0.01,
                                               wd=0.)),
    ('SpeedNet, all of it learned, ReLU', dict(net='SpeedNet', learned=True, plain=True, relu=True)),
    ('smaller pictures first', dict(plan=PLAN)),
    ('whitening', dict(learned=False)),
    ('convolutions start as the identity', dict(plain=False)),
    ('GELU', dict(relu=False)),
    ('one cycle to 0.05', dict(call='one cycle', lr=0.05)),
    ('Nesterov, weight decay 5e-4', dict(nesterov=True, wd=5e-4)),
    ('label smoothing 0.2', dict(smoothing=0.2)),
    ('mirrored in turn, moved by 2 pixels', dict(alternate=True)),
    ('Muon, batches of 2,000, a rate for each kind', dict(muon=True, bs=2000, call='descent',
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
    ('ReLU', dict(relu=True)), ('no label smoothing', dict(smoothing=0.)),
    ('mirrored by a coin, moved by 4 pixels', dict(alternate=False)), ('32x32 from the start', dict(plan=[])),
    ('Lookahead', dict(lookahead=True)), ('32 bits', dict(precision='fp32')),
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
    net = SpeedNet([64, 256, 256], 10, some_pictures(data), F.relu if c['relu'] else F.gelu,
                   c.get('deep', ()))
    if c['learned']: net.stem.weight.requires_grad_(True); net.stem.reset_parameters()
    for conv in net.groups()[0] if c['plain'] else (): conv.reset_parameters()
    return net

def step(name: str, seed: int) -> dict:
    c = settings(name)
    if c.get('keep'): keep_memory()
    NarrowConv2d.narrow = c.get('narrow', 0)
    seed_everything(seed)
    data = load_data(seed, c['bs'], c.get('alternate', False))
    net, muon = step_net(c, data), c.get('muon', False)
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=c.get('nesterov', False))
    loss = partial(F.cross_entropy, label_smoothing=c.get('smoothing', 0.))
    learn = Learner(data, net, loss, Muon if muon else sgd, groups=SpeedNet.groups if muon else None,
                    precision=c.get('precision', 'auto'))
    cbs = [AlternateFlip()] * c.get('alternate', False) + [Lookahead()] * c.get('lookahead', False)
    if 'plan' in c: cbs.append(GrowingSize(c['plan']))
    learn.data.valid, valid = None, learn.data.valid       # the time is that of training alone
    start, cpu = time.perf_counter(), time.process_time()
    if c['call'] == 'descent': learn.fit(c['lr'], 1, cycle_len=c['epochs'], wd=c['wd'], cbs=cbs)
    else: learn.fit_one_cycle(c['epochs'], c['lr'], wd=c['wd'], moms=(0.9, 0.9), cbs=cbs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    tta, y = Learner(data, Views(net), precision=learn.precision, progress=False).get_preds(valid)
    return dict(step=name, seed=seed, epochs=c['epochs'], accuracy=accuracy(*learn.get_preds(valid)),
                tta=accuracy(tta, y), seconds=round(seconds, 1), core_seconds=round(cpu, 1),
                threads=torch.get_num_threads(), precision=learn.precision)

# Which part of a training step an operator of PyTorch belongs to; what is left over is `rest`
PARTS = {'convolutions': 'conv', 'batch norm': 'batch_norm', 'GELU': 'gelu', 'pooling': 'pool|amax',
         'resizing': 'upsample', 'Muon': 'optimizer.step'}
WITH_PARTS = 'Optimizer.step', 'aten::max_pool2d_with_indices_backward'    # counted with what they call

def profile(size: int = 32, bs: int = 1000) -> dict:
    """Milliseconds of each part of a training step of the recipe on `size`x`size` pictures, the work in it,
    and what the machine's matrix multiplication reaches"""
    keep_memory()
    data = load_data(0, bs, alternate=True)
    net = SpeedNet([64, 256, 256], 10, some_pictures(data), deep=DEEP)
    learn = Learner(data, net, partial(F.cross_entropy, label_smoothing=0.2), Muon, groups=SpeedNet.groups,
                    progress=False)
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
    return dict(size=size, batch=bs, whole_ms=whole_ms + load_ms, data=load_ms, **parts,
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

def keep(part: str, row: dict, same: tuple):
    "Put a row into its part of the file in place of an older one that has the same values of `same`"
    new = load()
    rows = [r for r in new.get(part, []) if any(r[k] != row[k] for k in same)] + [row]
    names = list(dict(STEPS + TRIES))
    if part in ('steps', 'tries'): rows.sort(key=lambda r: (names.index(r['step']), r['seed']))
    new |= {'machine': machine(), 'data': cifar10_name(cifar10()[2]), part: rows}
    if part == 'profile': rows.sort(key=lambda r: -r['size'])
    write_json(RESULTS, new)
    print(json.dumps(row), flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=[*RECIPES, 'steps', 'profile'])
    p.add_argument('names', nargs='*', help='seeds of a recipe, or names of steps')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--again', type=int, default=0)
    p.add_argument('--device', default='cpu')
    args = p.parse_args()
    if len(cifar10()[0]) < 50_000:
        raise SystemExit("speedrun.py measures on the real CIFAR-10 only: set LESSONDL_DATA to its folder")
    if args.what == 'profile':
        for size in (16, 24, 32): keep('profile', profile(size), ('size',))
        return
    if args.what in RECIPES: tasks = [(args.what, [n]) for n in args.names or ['0']]
    else: tasks = [('steps', [n, '--seeds', str(seed)]) for seed in args.seeds
                   for n in args.names or dict(STEPS + TRIES)]
    if len(tasks) > 1:                                # each from a cold start: a process of its own
        for what, rest in tasks:
            options = ['--device', args.device, '--again', str(args.again)]
            subprocess.run([sys.executable, __file__, what, *rest, *options], check=True)
    elif args.what == 'steps':
        name = tasks[0][1][0]
        keep('tries' if name in dict(TRIES) else 'steps', step(name, args.seeds[0]), ('step', 'seed'))
    else:
        row = recipe(args.what, int(tasks[0][1][0]), args.device, args.again)
        keep('runs', row, ('recipe', 'seed', 'device', 'again'))

if __name__ == '__main__': main()
