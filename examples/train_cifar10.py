"""Train a net of the CIFAR-10 ladder (lesson 09), alone or in several processes (lesson 08c):

    python examples/train_cifar10.py Resnet2 --epochs 5
    torchrun --nproc-per-node 2 examples/train_cifar10.py Resnet2 --epochs 5 --bs 128

The batch size is that of one process, so both lines learn from 256 pictures a step. On GPUs each process
takes one of its own, on CPUs its share of the cores. Without CIFAR-10 (see data/README.md) drawn pictures
stand in.
"""
import argparse

from lessondl.cnn import ConvBnNet, ConvBnNet2, ConvNet, ConvNet2, Resnet, Resnet2, SimpleNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10
from lessondl.distributed import distributed
from lessondl.learner import Learner, seed_everything
from lessondl.metrics import accuracy

BN = [10, 20, 40, 80, 160]
# net: how it is made, its learning rate for batches of 256, its augmentation
NETS = {'SimpleNet': (lambda: SimpleNet([32*32*3, 40, 10]), 0.02, 'none'),
        'ConvNet': (lambda: ConvNet([3, 20, 40, 80], 10), 0.1, 'none'),
        'ConvNet2': (lambda: ConvNet2([3, 20, 40, 80], 10), 0.1, 'none'),
        'ConvBnNet': (lambda: ConvBnNet(BN, 10), 0.2, 'flip+crop'),
        'ConvBnNet2': (lambda: ConvBnNet2(BN, 10), 0.2, 'flip+crop'),
        'Resnet': (lambda: Resnet(BN, 10), 0.1, 'flip+crop'),
        'Resnet2': (lambda: Resnet2([16, 32, 64, 128, 256], 10, 0.2), 0.1, 'flip+crop')}

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('net', nargs='?', default='Resnet2', choices=NETS)
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--bs', type=int, default=256, help='pictures a batch, of one process')
    p.add_argument('--lr', type=float, help="the peak of the one cycle; left out: the net's own")
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device', choices=['cpu', 'cuda'], help='left out: GPUs if there are any')
    p.add_argument('--path', default='models', help='the folder of the saved weights')
    args = p.parse_args(args)
    make, lr, aug = NETS[args.net]
    with distributed(args.device) as group:
        seed_everything(args.seed)
        data = ImageData.from_arrays(*cifar10(), size=32, aug=aug, bs=args.bs, valid_bs=500, seed=args.seed)
        learn = group.share(Learner(data, make(), metrics=[accuracy], device=group.device, path=args.path))
        learn.fit_one_cycle(args.epochs, args.lr or lr, wd=5e-4)
        print('saved as', learn.save(args.net))

if __name__ == '__main__': main()
