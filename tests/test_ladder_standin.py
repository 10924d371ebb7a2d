"The ladder of lesson 09 on the drawn stand-in of CIFAR-10: its order holds, so the lesson keeps its point."
import time

import numpy as np
import pytest
import torch

from lessondl.cnn import ConvBnNet, ConvNet, Resnet2, SimpleNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.learner import Learner, seed_everything
from lessondl.metrics import accuracy

nets = {'SimpleNet': lambda: SimpleNet([32*32*3, 40, 10]),
        'ConvNet': lambda: ConvNet([3, 20, 40, 80], 10),
        'ConvBnNet': lambda: ConvBnNet([10, 20, 40, 80, 160], 10),
        'Resnet2': lambda: Resnet2([16, 32, 64, 128, 256], 10, .2)}
EPOCHS, RATE, SEEDS = 6, 3e-3, 3


@pytest.mark.e2e
def test_order_of_the_ladder():
    """`fit_one_cycle(6, 3e-3)` with AdamW, 5,000 pictures in batches of 64, 2,000 to test, mean of 3 seeds.

    Measured, 2026-11: SimpleNet 27%, ConvNet 86%, ConvBnNet 94%, Resnet2 98%; 60 s a seed on one core."""
    torch.set_num_threads(2)
    arrays = cifar10_standin(5000, 2000)
    mean, start = {}, time.time()
    for name, net in nets.items():
        found = []
        for seed in range(SEEDS):
            seed_everything(seed)
            data = ImageData.from_arrays(*arrays, bs=64, seed=seed)
            learn = Learner(data, net(), opt_func=torch.optim.AdamW, metrics=[accuracy],
                            progress=False)
            learn.fit_one_cycle(EPOCHS, RATE)
            found.append(learn.validate()[1])
        mean[name] = np.mean(found)
        print(f'{name:10} {mean[name]:.1%} of', np.round(found, 3), f'{time.time() - start:.0f} s')
    assert .15 < mean['SimpleNet'] < .4, 'fixed pixels should say little, but more than a guess'
    assert mean['SimpleNet'] + .2 < mean['ConvNet'], mean
    assert mean['ConvNet'] + .03 < mean['ConvBnNet'], mean
    assert mean['ConvBnNet'] <= mean['Resnet2'], mean
