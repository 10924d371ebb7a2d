"""Does depth by itself help? The ConvBnNet of lesson 09 with 1, 2, 4 and 8 layers at each size, plain and
residual, all with one call.

    python benchmarks/depth.py      writes results/depth.json (about a quarter of an hour on two cores)

25,000 training pictures instead of 50,000 and few epochs, so the accuracies are lower than the ladder's; what
counts is the comparison. With 2 layers `plain` is ConvBnNet2's depth, with 3 `residual` would be Resnet's.
"""
import json
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import cifar10_name, machine, write_json
from torch import nn

from lessondl.cnn import BnLayer, ResnetLayer
from lessondl.data import ImageData
from lessondl.datasets import cifar10
from lessondl.learner import Learner, seed_everything
from lessondl.metrics import accuracy

EPOCHS, LR, N = 6, 0.1, 25_000

class Net(nn.Module):
    def __init__(self, kind, n, layers=(10, 20, 40, 80, 160)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, layers[0], 5, padding=2)
        self.layers = nn.Sequential(*[m for a, b in zip(layers[:-1], layers[1:])
                                      for m in [BnLayer(a, b), *[kind(b, b, 1) for _ in range(n - 1)]]])
        self.out = nn.Linear(layers[-1], 10)

    def forward(self, x):
        x = self.layers(self.conv1(x))
        return F.log_softmax(self.out(F.adaptive_max_pool2d(x, 1).flatten(1)), dim=-1)

def run(name, kind, n, seed):
    train_x, train_y, test_x, test_y, classes = cifar10()
    seed_everything(seed)
    data = ImageData.from_arrays(train_x[:N], train_y[:N], test_x, test_y, classes, size=32, aug='flip+crop',
                                 bs=256, valid_bs=500, seed=seed)
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    learn = Learner(data, Net(kind, n), metrics=[accuracy], opt_func=sgd)
    learn.fit_one_cycle(EPOCHS, LR, wd=5e-4)
    row = learn.recorder.epochs[-1]
    return dict(kind=name, layers=n, seed=seed, train_loss=row['train_loss'], accuracy=row['accuracy'])

if __name__ == '__main__':
    if len(cifar10()[0]) < 50_000:
        raise SystemExit("depth.py measures on the real CIFAR-10 only: "
                         "set LESSONDL_DATA to the folder that holds it")
    rows = []
    for seed in range(3):
        for n in (1, 2, 4, 8):
            for name, kind in (('plain', BnLayer), ('residual', ResnetLayer)):
                rows.append(run(name, kind, n, seed))
                print(json.dumps(rows[-1]), flush=True)
    data = f'{cifar10_name(cifar10()[2])}: {N:,} training pictures, 10,000 test pictures'
    write_json(Path(__file__).parent / 'results' / 'depth.json',
               dict(machine=machine(), data=data, call=f'fit_one_cycle({EPOCHS}, {LR}, wd=5e-4)', rows=rows))
