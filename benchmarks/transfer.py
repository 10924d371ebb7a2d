"""What transfer costs and brings: lessons 11 and 11b.

    LESSONDL_DATA=... python benchmarks/transfer.py [PART ...]

Parts, each written into results/transfer.json as soon as it is done, with machine and date of its own:
precompute  seconds of a head's epochs on pictures and on stored features, interleaved pairs
finetune    the cartoons from the shipped body: seconds until 98% of the validation pictures, three seeds
ratios      one rate for all layers, thirds, tenths: photographs of kinds the body knows, digits, cartoons
unfreeze    the whole net from the beginning, or its head first: how far its features move, and accuracy
freeze_bn   batch norm held or not while the body is tuned, in batches of 4 and of 32
augment     the cartoons with and without augmentation
scratch     the cartoons from random weights, as many epochs as in finetune
sizes       cats against dogs, and satellite tiles, at the whole side, a half and a quarter
The first two measure time: run them on a machine that does nothing else.
"""

import argparse
import copy
import io
import json
import statistics
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from machine import machine, write_json
from torch import nn

from lessondl.data import ImageData, read_table, valid_idxs
from lessondl.datasets import cartoons, cifar10, digits, satellites
from lessondl.learner import Callback, seed_everything
from lessondl.transfer import VisionLearner, vision_learner

OUT = Path(__file__).parent / 'results' / 'transfer.json'
SEEDS = (0, 1, 2)
SETS = 'photographs', 'digits', 'cartoons'


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


def few(name: str, n: int, seed: int, bs: int = 32) -> ImageData:
    "`n` pictures of a set to learn from and others to judge by; of the cartoons all of the training set"
    if name == 'cartoons':
        return ImageData.from_folder(cartoons(), size=64, bs=bs, aug='side-on', max_zoom=1.1, seed=seed,
                                     drop_last=True)
    arrays = {'photographs': photos, 'digits': figures}[name](n)
    return ImageData.from_arrays(*arrays, bs=bs, valid_bs=250, seed=seed, drop_last=True)


def with_head(data: ImageData, seed: int, lr: float, epochs: int = 5) -> tuple[VisionLearner, float]:
    "A learner whose head was trained on features, and its result in validation"
    seed_everything(seed)
    learn = vision_learner(data, progress=False)
    learn.precompute = True
    if epochs: learn.fit_one_cycle(epochs, lr)
    score = learn.validate()[1]
    learn.precompute = False
    return learn, score


def note(rows: list, **row):
    rows.append(row)
    print(json.dumps(row), flush=True)


def ratios(lr: float = 1e-2, n: int = 400) -> dict:
    rows = []
    for name in SETS:
        for ratio in (1, 3, 10):
            heads, wholes = [], []
            for seed in SEEDS:
                learn, head = with_head(few(name, n, seed), seed, lr)
                learn.unfreeze()
                learn.fit_one_cycle(4, [lr / ratio**2, lr / ratio, lr])
                heads.append(head)
                wholes.append(learn.validate()[1])
            note(rows, set=name, ratio=ratio, head=heads, accuracy=wholes)
    return dict(what=f'{n} pictures, head first, then 4 epochs of one cycle at lr {lr} for the head and '
                     f'lr/ratio, lr/ratio**2 for the halves of the body', seeds=SEEDS, rows=rows)


def unfreeze(lr: float = 1e-2, n: int = 400, epochs: int = 4) -> dict:
    "With what protects the body, a cycle that begins low and lower rates for it, and without"
    ways = {'one cycle, thirds': lambda learn, n: learn.fit_one_cycle(n, [lr / 9, lr / 3, lr]),
            'constant, one rate': lambda learn, n: learn.fit(lr, n)}
    rows = []
    for name in SETS:
        for way, fit in ways.items():
            for head_first in (True, False):
                moved, accuracy = [], []
                for seed in SEEDS:
                    learn, _ = with_head(few(name, n, seed), seed, lr, 5 if head_first else 0)
                    learn.precompute = True
                    before = learn.features['valid'].x
                    learn.precompute = False
                    learn.unfreeze()
                    fit(learn, epochs if head_first else epochs + 5)
                    accuracy.append(learn.validate()[1])
                    learn.freeze()
                    learn.precompute = True
                    moved.append(((learn.features['valid'].x - before).norm() / before.norm()).item())
                note(rows, set=name, way=way, head_first=head_first, moved=moved, accuracy=accuracy)
    return dict(what=f'{n} pictures, {epochs} epochs of the whole net at lr {lr} after 5 epochs of the head, '
                     f'or {epochs + 5} of the whole net', seeds=SEEDS, rows=rows)


def augment(lr: float = 1e-2) -> dict:
    "The whole net, in cycles of 1, 2 and 4 epochs, with and without augmentation"
    rows = []
    for aug in ('side-on', 'none'):
        losses, accuracy, test = [], [], []
        for seed in SEEDS:
            learn, _ = with_head(cartoon_data(64, aug, seed), seed, lr)
            learn.unfreeze()
            learn.fit([lr / 9, lr / 3, lr], 3, cycle_len=1, cycle_mult=2)
            loss, right = learn.validate()
            losses.append(loss)
            accuracy.append(right)
            test.append(learn.validate('test')[1])
        note(rows, aug=aug, loss=losses, accuracy=accuracy, test=test)
    return dict(what='cartoons, 64 px, head first, then cycles of 1, 2 and 4 epochs of the whole net',
                seeds=SEEDS, rows=rows)


def scratch(n: int = 17, size: int = 96) -> dict:
    "As many epochs as in `finetune`, from random weights, in one cycle at the rate that is best of three"
    rows = []
    for lr in (3e-4, 1e-3, 3e-3):
        accuracy, losses = [], []
        for seed in SEEDS:
            seed_everything(seed)
            learn = vision_learner(cartoon_data(size, seed=seed), pretrained=False, progress=False)
            learn.unfreeze()
            learn.fit_one_cycle(n, lr)
            losses.append([row['train_loss'] for row in learn.recorder.epochs])
            accuracy.append(learn.validate()[1])
        note(rows, lr=lr, train_loss=losses, accuracy=accuracy)
    return dict(what=f'cartoons, {size} px, {n} epochs of all layers from random weights', seeds=SEEDS,
                rows=rows)


def by_the_batch(learn: VisionLearner, bs: int) -> float:
    "Accuracy in validation if the body's batch norm takes the statistics of batches of `bs`; nothing learns"
    model = copy.deepcopy(learn.model).eval()
    for m in model[0].modules(): m.train(isinstance(m, nn.BatchNorm2d))
    x, y = (torch.cat(part) for part in zip(*learn.data.valid))
    mixed = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))   # folders come by class
    x, y = x[mixed], y[mixed]
    with torch.no_grad(): right = [model(a).argmax(1) == b for a, b in zip(x.split(bs), y.split(bs))]
    return torch.cat(right).float().mean().item()


def freeze_bn(n: int = 200) -> dict:
    rows = []
    for name in SETS:
        for bs in (4, 32):
            lr = 1e-2 * bs / 32
            for held in (False, True):
                heads, by_batch, wholes = [], [], []
                for seed in SEEDS:
                    learn, head = with_head(few(name, n, seed, bs), seed, lr)
                    heads.append(head)
                    by_batch.append(by_the_batch(learn, bs))
                    learn.unfreeze()
                    learn.freeze_bn(held)
                    learn.fit_one_cycle(3, [lr / 9, lr / 3, lr])
                    wholes.append(learn.validate()[1])
                note(rows, set=name, bs=bs, freeze_bn=held, head=heads, by_batch=by_batch, accuracy=wholes)
    return dict(what=f'{n} pictures, head first, then 3 epochs of one cycle, lr 0.01 for batches of 32 '
                     f'and in proportion', seeds=SEEDS, rows=rows)


def cats_and_dogs(seed: int) -> ImageData:
    "The 2,000 cats and dogs that the body was not trained on: 1,000 to learn from, 1,000 to judge by"
    _, _, x, y, classes = cifar10()
    if len(x) < 10_000: raise SystemExit('this part needs the real CIFAR-10: set LESSONDL_DATA')
    two = [list(classes).index(kind) for kind in ('cat', 'dog')]
    chosen = np.isin(y, two)
    x, y = x[chosen], (y[chosen] == two[1]).astype(int)
    return ImageData.from_arrays(x[:1000], y[:1000], x[1000:], y[1000:], ['cat', 'dog'], bs=32, valid_bs=250,
                                 seed=seed)


def tiles(seed: int) -> ImageData:
    "Drawn tiles at half the side of their files; at the whole one a row would take a quarter of an hour"
    held = valid_idxs(len(read_table(satellites() / 'train_v2.csv')[1]))
    return ImageData.from_csv(satellites(), 'train-jpg', 'train_v2.csv', suffix='.jpg', valid_idxs=held,
                              size=128, bs=32, aug='top-down', seed=seed)


def sizes() -> dict:
    """What is still told apart on smaller pictures, and what the body is worth for whole ones after it was
    tuned on small ones"""
    rows = []
    for name, data, lr, sides in (('cats and dogs', cats_and_dogs, 1e-2, (32, 24, 16)),
                                  ('tiles', tiles, 0.2, (128, 96, 64))):
        for side in sides:
            heads, wholes, then = [], [], []
            for seed in SEEDS:
                whole = data(seed)
                learn, head = with_head(whole.replace(size=side), seed, lr)
                learn.unfreeze()
                learn.fit_one_cycle(3, [lr / 9, lr / 3, lr])
                heads.append(head)
                wholes.append(learn.validate()[1])
                learn.set_data(whole)                         # the tuned body, a new head for large pictures
                learn.freeze()
                learn.head.apply(lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else None)
                learn.precompute = True
                learn.fit_one_cycle(5, lr)
                then.append(learn.validate()[1])
            note(rows, set=name, side=side, head=heads, whole=wholes, then_head_at_full=then)
    return dict(what='head on features, 3 epochs of all layers at this side; then a new head on the '
                     'features that the tuned body makes of whole pictures', seeds=SEEDS, rows=rows)


PARTS = dict(precompute=precompute, finetune=finetune, ratios=ratios, unfreeze=unfreeze, freeze_bn=freeze_bn,
             augment=augment, scratch=scratch, sizes=sizes)


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
