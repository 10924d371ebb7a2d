"""What the Learner costs beside the plainest loop that does the same work.

    LESSONDL_DATA=... python benchmarks/learner_overhead.py [--pairs 9] [--pictures 5120]

The same pictures, batches, augmentation, model, loss and optimiser; bf16 where the processor has it,
channels-last. The two take turns, and change who begins, so that the machine's drift meets both. One ratio
for each pair, Learner's seconds by the loop's; the median and the spread go to results/learner_overhead.json.
So do the seconds of a lesson's start: a fresh Python, the imports, the pictures, a first batch through a net.
Run it on a machine that does nothing else.
"""

import argparse
import io
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine, write_json

from lessondl.cnn import Resnet2, SimpleNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import Learner, find_precision, seed_everything

SEED, BS, LR = 0, 256, 1e-2
models = {
    'Resnet2': lambda: Resnet2([16, 32, 64, 128, 256], 10, 0.2),
    'SimpleNet': lambda: SimpleNet([32 * 32 * 3, 40, 10]),
}


def plain_loop(data, model, bf16: bool):
    "An epoch of the eight-line loop; returns a function that runs it and gives the seconds"
    model = model.to(memory_format=torch.channels_last).train()
    opt = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)

    def epoch() -> float:
        start = time.perf_counter()
        for x, y in data.train:
            with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bf16):
                pred = model(x)
            F.cross_entropy(pred.float(), y).backward()
            opt.step()
            opt.zero_grad()
        return time.perf_counter() - start

    return epoch


def learner(data, model, bf16: bool):
    "The same epoch by `Learner.fit`, with recorder, progress, NaN check and schedule as they are by default"
    data = SimpleNamespace(train=data.train, valid=None)
    learn = Learner(data, model, precision='bf16' if bf16 else 'fp32')

    def epoch() -> float:
        start = time.perf_counter()
        with redirect_stdout(io.StringIO()):
            learn.fit(LR, 1)  # the table of a hundred epochs helps nobody
        return time.perf_counter() - start

    return epoch


START_UP = """
from lessondl.cnn import Resnet2
from lessondl.data import ImageData
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import Learner
data = ImageData.from_arrays(*cifar10(), aug='flip+crop', stats=cifar10_stats)
learn = Learner(data, Resnet2([16, 32, 64, 128, 256], 10, 0.2))
learn.model(next(iter(data.train))[0])
"""


def start_up(n: int = 5) -> dict:
    "Seconds from the start of a fresh Python until a first batch has gone through a net"
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', START_UP], check=True)
        seconds.append(time.perf_counter() - start)
    return {'pictures': len(cifar10()[0]), 'median': statistics.median(seconds), 'all': seconds}


def measure(name: str, arrays, pairs: int, repeat: int, bf16: bool) -> dict:
    "Interleaved pairs of epochs of one model"
    sides = {}
    for side, make in (('loop', plain_loop), ('learner', learner)):
        seed_everything(SEED)
        data = ImageData.from_arrays(*arrays, aug='flip+crop', bs=BS, stats=cifar10_stats, seed=SEED)
        sides[side] = make(data, models[name](), bf16)
        sides[side]()  # warm up: oneDNN makes its kernels at the first call
    seconds = {'loop': [], 'learner': []}
    for i in range(pairs):
        for side in ('loop', 'learner') if i % 2 == 0 else ('learner', 'loop'):
            seconds[side].append(sum(sides[side]() for _ in range(repeat)))
    ratios = sorted(a / b for a, b in zip(seconds['learner'], seconds['loop']))
    n = len(arrays[0]) * repeat
    return {
        'model': name,
        'pairs': pairs,
        'pictures': n,
        'batch': BS,
        'ratio': {
            'median': statistics.median(ratios),
            'lowest': ratios[0],
            'highest': ratios[-1],
            'all': ratios,
        },
        'pictures_per_second': {k: n / statistics.median(v) for k, v in seconds.items()},
        'seconds': seconds,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--pairs', type=int, default=9)
    parser.add_argument('--pictures', type=int, default=5120)
    parser.add_argument(
        '--out', type=Path, default=Path(__file__).parent / 'results' / 'learner_overhead.json'
    )
    args = parser.parse_args()
    x, y, vx, vy, classes = cifar10()
    arrays = (np.array(x[: args.pictures]), y[: args.pictures], vx[:BS], vy[:BS], classes)
    bf16 = find_precision() == 'bf16'
    runs = [
        measure('Resnet2', arrays, args.pairs, 1, bf16),
        measure('SimpleNet', arrays, args.pairs, 10, bf16),
    ]
    starts = start_up()
    print(f"start of a lesson: {starts['median']:.1f} s")
    for r in runs:
        q, speed = r['ratio'], r['pictures_per_second']
        print(
            f"{r['model']}: Learner / loop {q['median']:.3f} ({q['lowest']:.3f} to {q['highest']:.3f}, "
            f"{r['pairs']} pairs), {speed['learner']:,.0f} and {speed['loop']:,.0f} pictures/s"
        )
    write_json(
        args.out,
        {
            'what': 'seconds of Learner.fit by seconds of the plainest loop, interleaved pairs',
            'machine': machine(),
            'precision': 'bf16' if bf16 else 'fp32',
            'seed': SEED,
            'start_up': starts,
            'runs': runs,
        },
    )


if __name__ == '__main__':
    main()
