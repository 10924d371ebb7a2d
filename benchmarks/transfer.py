"""What transfer costs and brings: lessons 11 and 11b.

    LESSONDL_DATA=... python benchmarks/transfer.py [PART ...]

Parts, each written into results/transfer.json as soon as it is done, with machine and date of its own:
precompute  seconds of a head's epochs on pictures and on stored features, interleaved pairs
finetune    the cartoons from the shipped body: seconds until 98% of the validation pictures, three seeds
ratios      one rate for all layers, thirds, tenths: photographs, which the body knows, and digits
unfreeze    the whole net from the beginning, or its head first: how far its features move, and accuracy
freeze_bn   batch norm held or not while the body is tuned, in batches of 4 and of 32
The first two measure time: run them on a machine that does nothing else.
"""

import argparse
import io
import json
import statistics
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from machine import machine, write_json

from lessondl.data import ImageData
from lessondl.datasets import cartoons, cifar10, digits
from lessondl.learner import Callback, seed_everything
from lessondl.transfer import vision_learner

OUT = Path(__file__).parent / 'results' / 'transfer.json'
SEEDS = (0, 1, 2)


def cartoon_data(size: int = 64, aug: str = 'side-on', seed: int = 0) -> ImageData:
    zoom = {'max_zoom': 1.1} if aug == 'side-on' else {}
    return ImageData.from_folder(cartoons(), test='test', size=size, bs=16, aug=aug, seed=seed, **zoom)


def photos(n: int):
    "Photographs of the body's own ten kinds that it was not trained on: `n` to learn from, 1,000 to judge by"
    _, _, x, y, classes = cifar10()
    if len(x) < 10_000: raise SystemExit('this part needs the real CIFAR-10: set LESSONDL_DATA')
    return x[:n], y[:n], x[n : n + 1000], y[n : n + 1000], classes


def figures(n: int):
    "Handwritten digits, made 32x32 and three channels: nothing like what the body knows"
    x, y = digits()
    x = np.repeat(np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None], 3, -1)
    return x[:n], y[:n], x[n : n + 1000], y[n : n + 1000], [str(i) for i in range(10)]


def quietly(f):
    with redirect_stdout(io.StringIO()): return f()


def precompute(sizes: tuple = (64, 128, 224)) -> dict:
    "The larger the pictures, the more there is to save: what is left on features hardly depends on the size"
    return dict(sizes={size: head_epochs(size) for size in sizes})


def head_epochs(size: int, pairs: int = 9) -> dict:
    "Ratios of an epoch of the head on pictures by one on features"
    learn = vision_learner(cartoon_data(size), progress=False)
    seconds = {'pictures': [], 'features': []}

    def epochs(on: bool, n: int) -> float:
        learn.precompute = on
        start = time.perf_counter()
        quietly(lambda: learn.fit(1e-3, n))
        return (time.perf_counter() - start) / n

    for on, n in ((False, 1), (True, 3)): epochs(on, n)      # oneDNN makes its kernels at the first call
    for i in range(pairs):
        for on in (True, False) if i % 2 else (False, True):
            seconds['features' if on else 'pictures'].append(epochs(on, 10 if on else 1))
    all_of = sorted(a / b for a, b in zip(seconds['pictures'], seconds['features']))
    return dict(what='seconds of an epoch of the head with validation, on pictures by on stored features',
                pictures=len(learn.data.train.y), valid=len(learn.data.valid.y), size=size, pairs=pairs,
                ratio=dict(median=statistics.median(all_of), lowest=all_of[0], highest=all_of[-1],
                           all=all_of),
                seconds=seconds)


class Until(Callback):
    "Notes when the accuracy in validation first reached a goal"
    order = 90      # after the recorder
    def __init__(self, goal: float): self.goal, self.reached = goal, None
    def after_epoch(self, learn):
        now = learn.recorder.epochs[-1]['accuracy']
        if now >= self.goal and self.reached is None: self.reached = time.perf_counter()


def finetune(goal: float = 0.98, n: int = 14, size: int = 96) -> dict:
    "Head on features, then the whole net in one cycle; all seconds count, from the files on"
    runs = []
    for seed in SEEDS:
        cartoons()                                            # drawn beforehand: that happens once only
        start = time.perf_counter()
        seed_everything(seed)
        until = Until(goal)
        learn = vision_learner(cartoon_data(size, seed=seed), cbs=[until], progress=False)
        learn.precompute = True
        learn.fit_one_cycle(3, 1e-2)
        learn.precompute = False
        learn.unfreeze()
        learn.fit_one_cycle(n, [1e-2 / 9, 1e-2 / 3, 1e-2])
        whole = time.perf_counter() - start
        probs, y = learn.tta()
        runs.append(dict(seed=seed, seconds=whole, seconds_to_goal=until.reached and until.reached - start,
                         head=learn.recorder.epochs[2]['accuracy'], accuracy=learn.validate()[1],
                         tta=(probs.argmax(1) == y).float().mean().item(), test=learn.validate('test')[1],
                         epochs=[row['accuracy'] for row in learn.recorder.epochs]))
        print(json.dumps(runs[-1]), flush=True)
    return dict(what=f'cartoons, {size} px, 3 epochs of the head on features, {n} of all layers', goal=goal,
                runs=runs)


def tuned(arrays, seed, bs, lrs, epochs, frozen_norms=False) -> tuple[float, float]:
    "Accuracy of the trained head, and after tuning the whole net"
    seed_everything(seed)
    data = ImageData.from_arrays(*arrays, bs=bs, valid_bs=250, seed=seed, drop_last=True)
    learn = vision_learner(data, progress=False)
    learn.precompute = True
    learn.fit_one_cycle(5, 1e-2 * bs / 32)
    head = learn.recorder.epochs[-1]['accuracy']
    learn.precompute = False
    learn.unfreeze()
    learn.freeze_bn(frozen_norms)
    learn.fit_one_cycle(epochs, lrs)
    return head, learn.recorder.epochs[-1]['accuracy']


def ratios(lr: float = 1e-2, n: int = 400) -> dict:
    rows = []
    for name, arrays in (('photographs', photos(n)), ('digits', figures(n))):
        for ratio in (1, 3, 10):
            both = [tuned(arrays, seed, 32, [lr / ratio**2, lr / ratio, lr], 4) for seed in SEEDS]
            rows.append(dict(set=name, ratio=ratio, head=[h for h, _ in both], accuracy=[a for _, a in both]))
            print(json.dumps(rows[-1]), flush=True)
    return dict(what=f'{n} pictures, head first, then 4 epochs of one cycle at lr {lr} for the head and '
                     f'lr/ratio, lr/ratio**2 for the halves of the body', seeds=SEEDS, rows=rows)


def freeze_bn(n: int = 200) -> dict:
    rows = []
    for name, arrays in (('photographs', photos(n)), ('digits', figures(n))):
        for bs in (4, 32):
            lr = 1e-2 * bs / 32
            for held in (False, True):
                both = [tuned(arrays, seed, bs, [lr / 9, lr / 3, lr], 3, held) for seed in SEEDS]
                rows.append(dict(set=name, bs=bs, freeze_bn=held, head=[h for h, _ in both],
                                 accuracy=[a for _, a in both]))
                print(json.dumps(rows[-1]), flush=True)
    return dict(what=f'{n} pictures, head first, then 3 epochs of one cycle, lr 0.01 for batches of 32 '
                     f'and in proportion', seeds=SEEDS, rows=rows)


def unfreeze(lr: float = 1e-2, n: int = 400, epochs: int = 4) -> dict:
    rows = []
    for name, arrays in (('photographs', photos(n)), ('digits', figures(n))):
        for head_first in (True, False):
            moved, accuracy = [], []
            for seed in SEEDS:
                seed_everything(seed)
                data = ImageData.from_arrays(*arrays, bs=32, valid_bs=250, seed=seed, drop_last=True)
                learn = vision_learner(data, progress=False)
                learn.precompute = True
                before = learn.features['valid'].x
                if head_first: learn.fit_one_cycle(5, lr)
                learn.precompute = False
                learn.unfreeze()
                learn.fit_one_cycle(epochs, [lr / 9, lr / 3, lr])
                accuracy.append(learn.recorder.epochs[-1]['accuracy'])
                learn.freeze()
                learn.precompute = True
                moved.append(((learn.features['valid'].x - before).norm() / before.norm()).item())
            rows.append(dict(set=name, head_first=head_first, moved=moved, accuracy=accuracy))
            print(json.dumps(rows[-1]), flush=True)
    return dict(what=f'{n} pictures, {epochs} epochs of one cycle of the whole net at thirds of lr {lr}, '
                     f'after 5 epochs of the head or none', seeds=SEEDS, rows=rows)


PARTS = dict(precompute=precompute, finetune=finetune, ratios=ratios, unfreeze=unfreeze, freeze_bn=freeze_bn)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', choices=[*PARTS, []], help='all of them if none is named')
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    for name in args.parts or PARTS:
        print(name, flush=True)
        result = PARTS[name]()
        done = json.loads(args.out.read_text()) if args.out.exists() else {}
        write_json(args.out, {**done, name: {**result, 'machine': machine()}})


if __name__ == '__main__':
    main()
