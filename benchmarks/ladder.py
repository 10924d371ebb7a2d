"""The ladder of lesson 09 on the real CIFAR-10: accuracy on the 10,000 test pictures and wall time, one row
a run.

    python benchmarks/ladder.py                     all rungs, both calls, the seeds of the committed table
                                                    (over an hour)
    python benchmarks/ladder.py SimpleNet ConvNet   these rungs
    python benchmarks/ladder.py --call ours --seeds 0 1 2
    python benchmarks/ladder.py --show              print the committed table, run nothing

The notes' 41 epochs of the two ResNets in the committed table ran in one thread, which the table says:
`OMP_NUM_THREADS=1 python benchmarks/ladder.py Resnet Resnet2 --call notes` (53 minutes).
A run that stands in results/ladder.json already is measured again and replaced. `notes` are the training
calls of the lecture notes' own run, `ours` those of this course, in the same number of epochs or fewer.
"""
import argparse
import json
import statistics as st
import time
from functools import partial
from pathlib import Path

import torch
from machine import cifar10_name, machine, write_json

from lessondl.cnn import ConvBnNet, ConvBnNet2, ConvNet, ConvNet2, Resnet, Resnet2, SimpleNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10
from lessondl.learner import Learner, seed_everything
from lessondl.metrics import accuracy

RESULTS = Path(__file__).parent / 'results' / 'ladder.json'
sgd = partial(torch.optim.SGD, momentum=0.9)
nesterov = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
bn, wide = [10, 20, 40, 80, 160], [16, 32, 64, 128, 256]
long = ['fit(1e-2, 2)', 'fit(1e-2, 3, cycle_len=1, cycle_mult=2)', 'fit(1e-2, 8, cycle_len=4)']

# rung: how the model is made, the notes' calls, our calls, our augmentation, seeds of the committed table
# (notes, ours), and what the 2018 course printed: accuracy, seconds on its GPU
RUNGS = {
    'SimpleNet':  (lambda: SimpleNet([32*32*3, 40, 10]), ['fit(1e-2, 2)', 'fit(1e-2, 2, cycle_len=1)'],
                   ['fit_one_cycle(4, 0.02, wd=5e-4)'], 'none', (3, 3), (0.469, 110)),
    'ConvNet':    (lambda: ConvNet([3, 20, 40, 80], 10), ['fit(1e-1, 2)', 'fit(1e-1, 4, cycle_len=1)'],
                   ['fit_one_cycle(6, 0.1, wd=5e-4, moms=(0.9, 0.9))'], 'none', (3, 3), (0.599, 163)),
    'ConvNet2':   (lambda: ConvNet2([3, 20, 40, 80], 10), ['fit(1e-1, 2)', 'fit(1e-1, 2, cycle_len=1)'],
                   ['fit_one_cycle(4, 0.1, wd=5e-4)'], 'none', (3, 3), (0.518, 98)),
    'ConvBnNet':  (lambda: ConvBnNet(bn, 10), ['fit(3e-2, 2)', 'fit(1e-1, 4, cycle_len=1)'],
                   ['fit_one_cycle(6, 0.2, wd=5e-4)'], 'flip+crop', (2, 2), (0.681, 164)),
    'ConvBnNet2': (lambda: ConvBnNet2(bn, 10), ['fit(1e-2, 2)', 'fit(1e-2, 2, cycle_len=1)'],
                   ['fit_one_cycle(4, 0.2, wd=5e-4)'], 'flip+crop', (2, 2), (0.646, 116)),
    'Resnet':     (lambda: Resnet(bn, 10), long,
                   ['fit_one_cycle(18, 0.1, wd=5e-4, moms=(0.9, 0.9))'], 'flip+crop', (1, 2), (0.829, 1280)),
    'Resnet2':    (lambda: Resnet2(wide, 10, 0.2), long,
                   ['fit_one_cycle(16, 0.1, wd=5e-4, moms=(0.9, 0.9))'], 'flip+crop', (1, 2), (0.849, 1330)),
}

def run(rung: str, call: str, seed: int) -> dict:
    "Train one net from scratch; `seconds`: wall time of the training calls with validation after each epoch"
    make, notes, ours, aug, _, _ = RUNGS[rung]
    calls = notes if call == 'notes' else ours
    seed_everything(seed)
    data = ImageData.from_arrays(*cifar10(), size=32, aug='flip+crop' if call == 'notes' else aug, bs=256,
                                 valid_bs=500, seed=seed)
    learn = Learner(data, make(), metrics=[accuracy], opt_func=sgd if call == 'notes' else nesterov)
    start, cpu = time.perf_counter(), time.process_time()
    for c in calls: eval(f'learn.{c}')
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rows = learn.recorder.epochs
    out = dict(rung=rung, call=call, calls='; '.join(calls),
               augmentation=data.aug.name if hasattr(data.aug, 'name') else aug, seed=seed, epochs=len(rows),
               accuracy=rows[-1]['accuracy'], best=max(r['accuracy'] for r in rows),
               train_loss=rows[-1]['train_loss'], valid_loss=rows[-1]['valid_loss'],
               seconds=round(seconds, 1), cpu_seconds=round(cpu, 1), threads=torch.get_num_threads(),
               precision=learn.precision)
    if rung.startswith('Resnet'):
        start = time.perf_counter()
        out['tta'] = accuracy(*learn.tta())
        out['tta_seconds'] = round(time.perf_counter() - start, 1)
    return out

def load() -> dict: return json.loads(RESULTS.read_text()) if RESULTS.exists() else {'rows': []}

def keep(row: dict):
    "Put a row into the file, in the ladder's order, in place of the same run's older row"
    def run_of(r): return list(RUNGS).index(r['rung']), r['call'], r['seed']
    rows = sorted([r for r in load()['rows'] if run_of(r) != run_of(row)] + [row], key=run_of)
    old = {k: dict(accuracy=v[5][0], seconds=v[5][1]) for k, v in RUNGS.items()}
    data = f'{cifar10_name(cifar10()[2])}: 50,000 training pictures, 10,000 test pictures'
    write_json(RESULTS, {'machine': machine(), 'data': data, 'course_2018': old, 'rows': rows})

def spread(values) -> str:
    mean = 100 * st.mean(values)
    return f'{mean:.1f} ± {100 * st.stdev(values):.1f}' if len(values) > 1 else f'{mean:.1f} (one run)'

def table(rows: list[dict]) -> str:
    "The rows as a Markdown table: mean ± standard deviation over the seeds, beside the 2018 course's own run"
    lines = ['| rung | training calls | epochs | accuracy % | with TTA % | seconds '
             '| 2018: accuracy %, seconds on a GPU |', '|---|---|---|---|---|---|---|']
    for rung in RUNGS:
        for call in ('notes', 'ours'):
            some = [r for r in rows if r['rung'] == rung and r['call'] == call]
            if not some: continue
            tta = spread([r['tta'] for r in some]) if 'tta' in some[0] else ''
            acc, sec = RUNGS[rung][5]
            cores = '' if some[0].get('threads', 2) == 2 else ' on one core'
            lines.append(f"| {rung} | {call}: `{some[0]['calls']}` | {some[0]['epochs']} "
                         f"| {spread([r['accuracy'] for r in some])} | {tta} "
                         f"| {st.mean(r['seconds'] for r in some):.0f}{cores} | {100*acc:.1f}, {sec} |")
    return '\n'.join(lines)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rungs', nargs='*', help='of: ' + ', '.join(RUNGS))
    p.add_argument('--call', choices=['notes', 'ours'])
    p.add_argument('--seeds', type=int, nargs='+')
    p.add_argument('--show', action='store_true')
    args = p.parse_args()
    unknown = set(args.rungs) - set(RUNGS)
    if unknown: p.error(f"no rung {', '.join(sorted(unknown))}; the rungs are {', '.join(RUNGS)}")
    if not args.show:
        if len(cifar10()[0]) < 50_000:
            raise SystemExit("ladder.py measures on the real CIFAR-10 only: "
                             "set LESSONDL_DATA to the folder that holds it")
        for rung in args.rungs or RUNGS:
            for call in [args.call] if args.call else ('notes', 'ours'):
                for seed in args.seeds or range(RUNGS[rung][4][call == 'ours']):
                    row = run(rung, call, seed)
                    keep(row)
                    print(json.dumps(row), flush=True)
    print(table(load()['rows']))

if __name__ == '__main__': main()
