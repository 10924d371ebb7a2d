"""Lesson 17's recipe and its neighbours on CIFAR-10, several seeds each, on a graphics card.

    python benchmarks/speedrun_variants.py [NAMES] [--seeds 0 1 2] [--device cuda]

A training of the whole length takes eleven minutes on two processor cores and some seconds here, so here is
where one can ask what a part is worth at that length. The net, Muon and the six views are the library's; the
pictures stay on the card, so the loop is one of its own, and its draws are not those of `Learner`. Accuracies
are comparable among the rows, and nearly with those of results/speedrun.json; seconds are not reported, as
several of these ran at a time. A row that stands in results/speedrun_variants.json already is replaced. (The
committed rows were made by the first form of this script, before it was tidied: the same loop and draws.)
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import cifar10_name, machine, write_json
from torch.utils.flop_counter import FlopCounterMode

from lessondl.cnn import SpeedNet
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import Muon, Views

RESULTS = Path(__file__).parent / 'results' / 'speedrun_variants.json'
BASE = dict(layers=[64, 256, 256], deep=[], epochs=22, bs=2000, rate=0.24, pad=2, plan=[[0.6, 24]],
            smoothing=0.2, momentum=0.6, schedule='cosine', cutout=0)
DEEP, SMALL = [0, 2], dict(bs=1250, rate=0.17)
VARIANTS = {
    # the batch, and the rate that goes with it
    'batches of 2,000': {},
    'rate 0.17, a straight line': dict(rate=0.17, schedule='line'),
    'a straight line': dict(schedule='line'),
    'batches of 1,600, rate 0.2, a straight line': dict(bs=1600, rate=0.2, schedule='line'),
    'batches of 1,000, rate 0.12, a straight line': dict(bs=1000, rate=0.12, schedule='line'),
    # on top of batches of 1,000 and moves of 4 pixels
    'batches of 1,000, moves of 4': dict(bs=1000, pad=4),
    '... moves of 3': dict(bs=1000, pad=3),
    '... moves of 2': dict(bs=1000),
    '... rate 0.17': dict(bs=1000, pad=4, rate=0.17),
    '... rate 0.34': dict(bs=1000, pad=4, rate=0.34),
    '... a straight line': dict(bs=1000, pad=4, schedule='line'),
    '... label smoothing 0.1': dict(bs=1000, pad=4, smoothing=0.1),
    '... momentum 0.8': dict(bs=1000, pad=4, momentum=0.8),
    '... squares of 8 pixels blacked out': dict(bs=1000, pad=4, cutout=8),
    '... seven tenths small': dict(bs=1000, pad=4, plan=[[0.7, 24]]),
    '... 20, then 28 pixels': dict(bs=1000, pad=4, plan=[[0.4, 20], [0.8, 28]]),
    '... 25 epochs': dict(bs=1000, pad=4, epochs=25),
    # depth and width
    'deep: last': dict(deep=[2], schedule='line'),
    'deep: first and last': dict(deep=DEEP),
    'deep: first and last, a straight line': dict(deep=DEEP, schedule='line'),
    'deep: first and last, batches of 1,250, a straight line': dict(SMALL, deep=DEEP, schedule='line'),
    'deep: all, 17 epochs': dict(deep=[0, 1, 2], epochs=17, schedule='line'),
    '384 filters in the last block, 19 epochs': dict(layers=[64, 256, 384], epochs=19, schedule='line'),
    # the same minutes: batches of 1,250, rate 0.17
    'deep: first and last, 20 epochs': dict(SMALL, deep=DEEP, epochs=20),
    '192 filters in the middle, deep: first and last, 22 epochs':
        dict(SMALL, layers=[64, 192, 256], deep=DEEP),
    '192 filters in the middle, deep: all, 20 epochs':
        dict(SMALL, layers=[64, 192, 256], deep=[0, 1, 2], epochs=20),
    '192 and 384 filters, deep: first and last, 20 epochs':
        dict(SMALL, layers=[64, 192, 384], deep=DEEP, epochs=20),
    'deep: last, seven tenths small, 22 epochs': dict(SMALL, deep=[2], plan=[[0.7, 24]]),
    'deep: first and last, 16 pixels first, 21 epochs':
        dict(SMALL, deep=DEEP, plan=[[0.2, 16], [0.6, 24]], epochs=21),
    # short ones
    '8 epochs, not deep, a straight line': dict(bs=1000, rate=0.17, epochs=8, schedule='line'),
    '8 epochs, a straight line': dict(bs=1000, rate=0.17, deep=DEEP, epochs=8, schedule='line'),
    '6 epochs, batches of 1,000': dict(bs=1000, rate=0.17, deep=DEEP, epochs=6),
    '6 epochs, batches of 500': dict(bs=500, rate=0.12, deep=DEEP, epochs=6),
    '5 epochs, batches of 1,000': dict(bs=1000, rate=0.17, deep=DEEP, epochs=5),
    '2 epochs, not deep': dict(bs=500, rate=0.17, epochs=2),
    '2 epochs': dict(bs=500, rate=0.17, deep=DEEP, epochs=2),
    '2 epochs, eight tenths small': dict(bs=500, rate=0.17, deep=DEEP, epochs=2, plan=[[0.8, 24]]),
}

class Pictures:
    "CIFAR-10 on the device, normalised: `x`, `y` to train, `valid_x`, `valid_y`"
    def __init__(self, device: str):
        x, y, valid_x, valid_y, _ = cifar10()
        mean, std = (torch.tensor(s, device=device).view(1, 3, 1, 1) for s in cifar10_stats)
        def load(a):
            a = torch.tensor(np.array(a), device=device).permute(0, 3, 1, 2).float()
            return ((a / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        self.x, self.valid_x = load(x), load(valid_x)
        self.y, self.valid_y = (torch.tensor(np.array(a), device=device) for a in (y, valid_y))

def moved(x: torch.Tensor, pad: int, g) -> torch.Tensor:
    "Pictures [N,C,H,W], each moved by up to `pad` pixels, the border reflected"
    n, h = len(x), x.shape[-1]
    wide = F.pad(x, (pad,) * 4, 'reflect').permute(0, 2, 3, 1)
    shift = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=g, device=x.device)
    rows, cols = shift + torch.arange(h, device=x.device)
    each = torch.arange(n, device=x.device)[:, None, None]
    return wide[each, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

def blacked_out(x: torch.Tensor, size: int, g) -> torch.Tensor:
    "Pictures [N,C,H,W] with a square of zeros each"
    start = torch.randint(0, x.shape[-1], (2, len(x), 1), generator=g, device=x.device) - size // 2
    place = torch.arange(x.shape[-1], device=x.device)
    rows, cols = (place >= start) & (place < start + size)
    return x.masked_fill((rows[:, :, None] & cols[:, None, :])[:, None], 0.)

def train(name: str, seed: int, data: Pictures) -> dict:
    c = BASE | VARIANTS[name]
    torch.manual_seed(seed)
    device, bs = data.x.device, c['bs']
    g = torch.Generator(device).manual_seed(seed)
    net = SpeedNet(c['layers'], 10, data.x[:5000].cpu(), deep=c['deep'])
    net = net.to(device).to(memory_format=torch.channels_last)
    rates = c['rate'], 0.053 * bs, 1e-5 * bs
    groups = [[p for m in group for p in m.parameters() if p.requires_grad] for group in net.groups()]
    groups = [dict(params=ps, lr=lr, weight_decay=decay)
              for ps, lr, decay in zip(groups, rates, (0., 4e-5, 0.2))]
    opt = Muon(groups, momentum=c['momentum'])
    half = torch.rand(len(data.x), generator=g, device=device) < 0.5
    pictures = torch.where(half[:, None, None, None], data.x.flip(3), data.x)
    steps = len(data.x) // bs
    for step in range(c['epochs'] * steps):
        done, i = step / (c['epochs'] * steps), step % steps
        if i == 0:
            net.train()
            order = torch.randperm(len(data.x), generator=g, device=device)
        fall = 1 - done if c['schedule'] == 'line' else (1 + math.cos(math.pi * done)) / 2
        for group, lr in zip(opt.param_groups, rates): group['lr'] = lr * fall
        some = order[i * bs:(i + 1) * bs]
        x = moved(pictures[some], c['pad'], g)
        if step // steps % 2: x = x.flip(3)
        if c['cutout']: x = blacked_out(x, c['cutout'], g)
        size = next((size for until, size in c['plan'] if done < until), None)
        if size: x = F.interpolate(x, size=size, mode='bilinear', antialias=True)
        with torch.autocast(device.type, dtype=torch.bfloat16): out = net(x)
        F.cross_entropy(out.float(), data.y[some], label_smoothing=c['smoothing']).backward()
        opt.step()
        opt.zero_grad()
    return dict(variant=name, seed=seed, **c, accuracy=share(net, data), six_views=share(Views(net), data),
                gflop=work(c))

@torch.no_grad()
def share(net, data: Pictures) -> float:
    net.eval()
    with torch.autocast(data.x.device.type, dtype=torch.bfloat16):
        out = torch.cat([net(x).float() for x in data.valid_x.split(2000)])
    return round((out.argmax(1) == data.valid_y).float().mean().item(), 4)

def work(c: dict) -> float:
    "10^9 operations, forwards, for one picture in all epochs, growing pictures counted"
    net = SpeedNet(c['layers'], 10, torch.randn(8, 3, 32, 32), deep=c['deep']).eval()
    total, start = 0, 0.
    for until, size in (*c['plan'], (1., 32)):
        with FlopCounterMode(display=False) as counter, torch.no_grad(): net(torch.randn(1, 3, size, size))
        total += (until - start) * counter.get_total_flops()
        start = until
    return round(total * c['epochs'] / 1e9, 2)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='variants; all of them if none is named')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--device', default='cuda')
    args = p.parse_args()
    if wrong := set(args.names) - set(VARIANTS):
        raise SystemExit(f"no variant {', '.join(wrong)}; they are:\n  " + '\n  '.join(VARIANTS))
    data, order = Pictures(args.device), list(VARIANTS)
    device = torch.cuda.get_device_name() if data.x.is_cuda else args.device
    for seed in args.seeds:
        for name in args.names or VARIANTS:
            row = train(name, seed, data)
            old = json.loads(RESULTS.read_text())['rows'] if RESULTS.exists() else []
            rows = [r for r in old if (r['variant'], r['seed']) != (name, seed)] + [row]
            rows.sort(key=lambda r: (order.index(r['variant']), r['seed']))
            about = dict(machine=machine() | {'device': device}, data=cifar10_name(cifar10()[2]))
            write_json(RESULTS, about | {'rows': rows})
            print(json.dumps(row), flush=True)

if __name__ == '__main__': main()
