"One Learner of several processes: the result of one, exact answers, files written once, and how it ends"
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from lessondl.datasets import digits
from lessondl.distributed import Group, Share, as_share, distributed, in_turn, lost, share_out, told_to_end
from lessondl.learner import Learner

root = Path(__file__).resolve().parent.parent

# what the test and its workers have in common
common = '''
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lessondl.data import ImageData
from lessondl.datasets import digits
from lessondl.distributed import distributed
from lessondl.learner import Callback, EarlyStop, GradientClip, Learner, SaveBest, seed_everything
from lessondl.metrics import accuracy, f_beta

def macro_f2(p, y): return f_beta(p, torch.nn.functional.one_hot(y, 10), 2, average='macro')

def data(bs, n=1000, **kw):
    x, y = digits()
    arrays = x[:n], y[:n], x[4000:4203], y[4000:4203], [str(i) for i in range(10)]
    return ImageData.from_arrays(*arrays, **{'bs': bs, 'valid_bs': 25, **kw})

def net(norm=False):
    seed_everything(0)
    between = [nn.BatchNorm1d(30), nn.Dropout(.2)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), *between, nn.ReLU(), nn.Linear(30, 10))

def learner(bs, folder, d=None, model=None, **kw):
    kw = dict(metrics=[accuracy, macro_f2], precision='fp32', path=folder) | kw
    return Learner(d or data(bs), model or net(), **kw)
'''

worker = common + '''
def problem(f):
    try: f()
    except Exception as e: return f'{type(e).__name__}: {e}'

folder, out = sys.argv[1], {}
with distributed('cpu', timeout=60) as group:
    out['threads'] = torch.get_num_threads()
    plain = learner(25, folder)
    learn = group.share(plain)
    assert learn is plain and isinstance(learn, Learner)
    learn.fit_one_cycle(1, 0.1, cbs=[GradientClip(5.)])
    out['losses'], out['epochs'] = learn.recorder.losses, learn.recorder.epochs
    out['weights'] = {k: v.clone() for k, v in learn.model.state_dict().items()}
    out['answers'], out['preds'], out['labels'] = learn.validate(), *learn.get_preds()
    out['train labels'], out['tta'] = learn.get_preds('train')[1], learn.tta(1)[0]
    out['own loader'] = learn.validate([*data(25).valid])
    learn.save('two')
    if group.first: out['one picture'] = learn.predict(digits()[0][0])[1]    # the other does not take part

    learn.load('one')                       # what the test saved in one process
    out['loaded'] = learn.validate()
    if group.rank: time.sleep(1)            # the others wait until the file is whole
    out['kept'] = str(learn.save('again')), os.path.exists(f'{folder}/again.pt')
    learn.path = Path('/proc/no/such/folder')
    out['unsaved'] = problem(lambda: learn.save('x'))
    learn.path = plain.path

    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    out['found'] = learn.lr_find(n=30)
    out['restored'] = all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())

    learn.freeze(); learn.fit(0.05, 1); learn.unfreeze(); learn.fit(0.05, 1)      # wrapped anew each time
    out['refitted'] = learn.data.train.epoch, {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.set_data(data(25, n=203))         # 4 steps of 50, and one of 3: one sits out
    learn.fit(0.01, 1)
    out['ragged'] = len(learn.recorder.losses)

    normed = group.share(learner(25, folder, model=net(norm=True), d=data(25, n=200), progress=False))
    normed.fit(0.1, 5, cbs=[SaveBest('best'), EarlyStop('train_loss', patience=1, better='higher')])
    out['normed'] = normed.validate(), {k: v.clone() for k, v in normed.model.state_dict().items()}
    out['stopped'] = len(normed.recorder.epochs)

    out['one batch'] = group.share(learner(25, folder, d=data(25, valid_bs=500))).validate()

    seen = []
    class Note(Callback):
        def after_batch(self, learn):
            if learn.training: seen.append(learn.x[:, 0].int().tolist())
    rows = TensorDataset(torch.arange(23.)[:, None], torch.arange(23) % 3)
    torch.manual_seed(group.rank)           # each has random numbers of its own
    loaders = SimpleNamespace(train=DataLoader(rows, 4, shuffle=True), valid=DataLoader(rows, 4))
    small = Learner(loaders, nn.Linear(1, 3), precision='fp32', progress=False)
    group.share(small).fit(0., 2, cbs=[Note()])
    out['seen'], out['small'] = seen, small.get_preds()[1]

    batches = SimpleNamespace(train=[*rows], valid=None)
    out['unshared'] = problem(lambda: group.share(Learner(batches, nn.Linear(1, 3))))
    out['too few'] = problem(lambda: group.share(learner(25, folder, d=data(25, n=1))))
    out['differ'] = problem(lambda: group.share(learner(25, folder, d=data(25, seed=group.rank))))
    out['twice'] = problem(lambda: group.share(learn))
out['plain again'] = type(plain) is Learner and type(plain.data) is ImageData and len(plain.data.train) == 9
torch.save(out, f'{folder}/rank{group.rank}.pt')
'''

ends = common + '''
class End(Callback):
    def after_batch(self, learn):
        if not learn.training or learn.batch < 3 or os.environ['RANK'] == '0': return
        if how == 'killed': os.kill(os.getpid(), signal.SIGKILL)
        if how == 'stuck': time.sleep(200)
        if how == 'error': raise ValueError('my own mistake')
        if how == 'interrupt': raise KeyboardInterrupt

how, folder = sys.argv[1:]
with distributed('cpu', timeout=3 if how == 'stuck' else 60) as group:
    learn = group.share(learner(25, folder))
    if how == 'behind an if':
        if group.first: learn.save('x')
    else: learn.fit(0.05, 1, cbs=[End()])
'''

exec(common, there := {'__name__': 'common'})
data, learner, net = (there[name] for name in ('data', 'learner', 'net'))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launch(script, *args, n=2, limit=300):
    "A script (its text, or a file) under torchrun: exit code, stdout, stderr, seconds"
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root), 'LESSONDL_SAMPLE': '1'}
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)]
    start = time.monotonic()
    done = subprocess.run([*launcher, *map(str, (script, *args))], capture_output=True, text=True, env=env,
                          timeout=limit)
    done.seconds = time.monotonic() - start
    return done


# ---- who takes what, without any process -------------------------------------------------------------------

@given(n=st.integers(1, 200), bs=st.integers(1, 20), size=st.integers(1, 6), drop_last=st.booleans())
def test_every_example_once_in_equal_steps(n, bs, size, drop_last):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    shares = [share_out(order, bs, rank, size, True, drop_last) for rank in range(size)]
    lengths = [[len(p) for p in own] for own in shares]
    assert all(own == lengths[0] for own in lengths) and 0 not in lengths[0]
    used = [i for own in shares for p in own for i in p.tolist()]
    assert len(used) == len(set(used)) and (drop_last or n - len(used) < size)
    doubled = share_out(order, bs * size, 0, 1, True, drop_last)       # one process: the same steps
    for step, whole in enumerate(doubled[:len(shares[0])]):
        both = torch.cat([own[step] for own in shares])
        assert torch.equal(both, whole[:len(both)]) and len(whole) - len(both) < size

    asked = in_turn([share_out(order, bs, rank, size, False) for rank in range(size)])
    assert torch.equal(torch.cat(asked), order)
    assert max(map(len, asked)) <= bs


def test_shares_augment_by_their_own_draws_and_keep_the_order():
    def loader(bs): return data(bs, n=100, aug='flip+crop').train
    shares = [Share(loader(25), rank, 2, True) for rank in range(2)]
    (x1, y1), (x2, y2), (_, y) = next(iter(shares[0])), next(iter(shares[1])), next(iter(loader(50)))
    assert torch.equal(torch.cat([y1, y2]), y)
    assert x1.shape == x2.shape == (25, 1, 28, 28)
    assert shares[0].epoch == 1


def test_a_table_is_shared_out_too():
    pytest.importorskip('pandas')
    from lessondl.tabular import TableLoader
    y = torch.arange(23.)[:, None]
    def loader(bs): return TableLoader(y.long(), y, y, bs, shuffle=True, seed=5)
    shares = [as_share(loader(4), 'train', rank, 2, True) for rank in range(2)]
    for ((a1, b1), y1), ((a2, b2), y2), (_, whole) in zip(*shares, loader(8)):
        assert torch.equal(torch.cat([y1, y2]), whole[:2 * len(y1)])
        assert torch.equal(torch.cat([a1, a2]).float(), torch.cat([b1, b2]))
        assert torch.equal(torch.cat([b1, b2]), torch.cat([y1, y2]))


def numbers(n=23): return TensorDataset(torch.arange(float(n))[:, None], torch.arange(n))


class Stream(IterableDataset):
    def __iter__(self): return iter(numbers())


class OwnOrder(torch.utils.data.Sampler):
    def __init__(self): pass
    def __iter__(self): return iter(torch.randperm(23).tolist())
    def __len__(self): return 23


@pytest.mark.parametrize('loader, words', [
    ([(torch.zeros(2, 1), torch.zeros(2))], 'a list cannot be shared out among 2 processes'),
    ((b for b in ()), 'a generator cannot be shared out'),
    (DataLoader(Stream(), 4), 'IterableDataset'),
    (DataLoader(numbers(), None), 'batch_size'),
    (DataLoader(numbers(), 4, sampler=OwnOrder()), 'generator=torch.Generator'),
    (DataLoader(numbers(), 4, sampler=WeightedRandomSampler([1.] * 23, 23)), 'generator=torch.Generator'),
])
def test_what_cannot_be_shared_is_refused(loader, words):
    with pytest.raises(TypeError, match=re.escape(words)): as_share(loader, 'train', 0, 2, True)


@pytest.mark.parametrize('make, words', [
    (lambda: data(25, n=3).train, '3 examples, too few for a batch in each of 4 processes'),
    (lambda: data(25, n=90, drop_last=True).train, 'drop_last=True, batches of 25'),
    (lambda: DataLoader(numbers(3), 2), '3 examples'),
])
def test_too_many_processes_are_refused(make, words):
    with pytest.raises(ValueError, match=words): as_share(make(), 'train', 0, 4, True)


def test_a_weighted_sampler_with_its_generator_is_shared():
    def loader(bs):
        g = torch.Generator().manual_seed(0)
        return DataLoader(numbers(), bs, sampler=WeightedRandomSampler([1.] * 22 + [50.], 24, generator=g))
    shares = [as_share(loader(4), 'train', rank, 2, True) for rank in range(2)]
    assert [len(s) for s in shares] == [3, 3]
    for epoch in zip(*shares), zip(*shares): list(epoch)
    whole = loader(8)
    list(whole), list(whole)
    for (_, y1), (_, y2), (_, y) in zip(*shares, whole): assert torch.equal(torch.cat([y1, y2]), y)


def test_alone_nothing_changes(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    learn = learner(25, 'x')
    with distributed('cpu') as group:
        assert group.share(learn) is learn and type(learn) is Learner
        assert (group.first, group.size, group.from_first(3), group.gather(3)) == (True, 1, 3, [3])


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for name, value in dict(RANK=0, WORLD_SIZE=2, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match='2 processes, but this machine has 1 GPUs'):
        with distributed('cuda'): pass


def test_the_launchers_signal_is_an_error_with_words(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ConnectionError, match='process 1 of 2: the launcher has ended it'):
            with told_to_end(Group(1, 2, torch.device('cpu'))):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
        signal.signal(signal.SIGTERM, before)
        with told_to_end(Group(1, 2, torch.device('cpu'))):
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
    finally: signal.signal(signal.SIGTERM, before)


def test_which_errors_mean_that_another_process_is_gone():
    assert lost(RuntimeError('[third_party/gloo/tcp/pair.cc:545] Read error'))
    assert lost(torch.distributed.DistBackendError())
    assert not lost(RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    assert not lost(ValueError('gloo'))
    assert repr(Group(1, 3, torch.device('cpu'))) == 'process 1 of 3'


# ---- two processes that train ------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "What two processes did, and one process with the doubled batch"
    folder = tmp_path_factory.mktemp('two')
    one = learner(50, folder, progress=False)
    one.fit_one_cycle(1, 0.1, cbs=[there['GradientClip'](5.)])
    one.save('one')
    (folder/'worker.py').write_text(worker)
    done = launch(folder/'worker.py', folder)
    assert done.returncode == 0, done.stderr[-5000:]
    ranks = [torch.load(folder/f'rank{rank}.pt', weights_only=False) for rank in range(2)]
    return SimpleNamespace(one=one, ranks=ranks, folder=folder, stdout=done.stdout, stderr=done.stderr)


def test_twenty_steps_equal_one_process_with_the_doubled_batch(two):
    for rank in two.ranks:
        assert len(rank['losses']) == 20 and rank['threads'] >= 1
        assert np.allclose(rank['losses'], two.one.recorder.losses, rtol=0, atol=1e-5)
        for name, w in two.one.model.state_dict().items():
            assert torch.allclose(rank['weights'][name], w, rtol=0, atol=1e-5), name
    assert two.ranks[0]['losses'] == two.ranks[1]['losses']
    drop = [{k: v for k, v in rank['epochs'][0].items() if k != 'seconds'} for rank in two.ranks]
    assert drop[0] == drop[1]


def test_further_fits_after_loading_equal_one_process(two):
    alone = learner(50, two.folder, progress=False)
    alone.load('one')
    alone.data.train.epoch = 2            # a fit, and a look at the training set
    alone.fit(0.05, 2)
    for rank in two.ranks:
        epoch, weights = rank['refitted']
        assert epoch == alone.data.train.epoch == 4
        for name, w in alone.model.state_dict().items():
            assert torch.allclose(weights[name], w, rtol=0, atol=1e-5), name


def test_answers_are_those_of_one_process_to_the_last_bit(two):
    alone = learner(25, two.folder, progress=False)
    alone.load('two')
    (probs, labels), answers = alone.get_preds(), alone.validate()
    for rank in two.ranks:
        assert rank['answers'] == answers == rank['own loader']       # 203 pictures in 9 batches: 5 and 4
        assert torch.equal(rank['preds'], probs) and torch.equal(rank['labels'], labels)
        assert sorted(rank['train labels'].tolist()) == sorted(digits()[1][:1000].tolist())
        assert torch.allclose(rank['tta'], probs, atol=1e-6)          # no augmentation: the mean of the same
    assert two.ranks[0]['one picture'] == alone.predict(digits()[0][0])[1]


def test_with_one_batch_for_two_processes_both_have_the_answer(two):
    answers = learner(25, two.folder, d=data(25, valid_bs=500), progress=False).validate()
    assert [rank['one batch'] for rank in two.ranks] == [answers] * 2


def test_files_of_one_load_in_two_and_of_two_in_one(two):
    for rank in two.ranks:
        assert rank['loaded'] == two.one.validate('valid')
        assert rank['kept'] == (str(two.folder/'again.pt'), True)
        assert rank['unsaved'].startswith('OSError: /proc/no/such/folder/x.pt could not be written')
    alone = learner(50, two.folder, progress=False)
    alone.load('two')
    assert alone.opt.state_dict()['state'].keys() == two.one.opt.state_dict()['state'].keys()
    alone.fit(0.01, 1)


def test_one_table_and_no_warning(two):
    assert two.stdout.count('accuracy') == 4 and two.stdout.count('\n0 ') == 1      # four fits with a table
    assert 'Warning' not in two.stderr, two.stderr


def test_the_finder_is_the_same_in_both_and_leaves_no_trace(two):
    assert all(rank['restored'] for rank in two.ranks)
    assert two.ranks[0]['found'] == two.ranks[1]['found'] and two.ranks[0]['found']


def test_batch_norm_early_stop_and_the_best_are_the_same_in_both(two):
    (answers, state), (others, theirs) = (rank['normed'] for rank in two.ranks)
    assert answers == others
    assert all(torch.equal(v, theirs[k]) for k, v in state.items())
    alone = learner(25, two.folder, model=net(norm=True), d=data(25, n=200), progress=False)
    alone.load('best')
    assert alone.validate() == answers
    assert [rank['stopped'] for rank in two.ranks] == [2, 2]


def test_the_ragged_end_and_other_data(two):
    assert [rank['ragged'] for rank in two.ranks] == [20 + 20 + 20 + 5] * 2
    assert all(rank['plain again'] for rank in two.ranks)


def test_a_dataloader_without_a_seed_is_dealt_out_all_the_same(two):
    first, second = (rank['seen'] for rank in two.ranks)
    assert [len(b) for b in first] == [len(b) for b in second] == [4, 4, 3] * 2
    for epoch in (slice(3), slice(3, 6)):
        used = sum(first[epoch] + second[epoch], [])
        assert len(used) == 22 and len(set(used)) == 22
    assert first[:3] != first[3:]
    for rank in two.ranks: assert rank['small'].tolist() == (torch.arange(23) % 3).tolist()


def test_errors_are_told_by_both(two):
    for rank in two.ranks:
        assert 'TypeError: data.train: a list cannot be shared out' in rank['unshared']
        assert 'ValueError: data.train has 1 examples, too few for a batch in each of 2' in rank['too few']
        assert 'the processes differ in data.train, seed: 0 in process 0, 1 in process 1' in rank['differ']
        assert 'TypeError' in rank['twice']


# ---- how it ends -------------------------------------------------------------------------------------------

def end(tmp_path, how):
    (tmp_path/'ends.py').write_text(ends)
    done = launch(tmp_path/'ends.py', how, tmp_path)
    assert done.returncode != 0
    return done


def test_a_killed_process_ends_the_run_with_words_in_both(tmp_path):
    done = end(tmp_path, 'killed')
    assert re.search('ConnectionError: process 0 of 2(:.+has ended it| waited in vain)', done.stderr)
    assert 'Signal 9 (SIGKILL)' in done.stderr        # the launcher's summary


@pytest.mark.e2e
@pytest.mark.parametrize('how, words', [
    ('stuck', 'stuck for over 3 s'),
    ('error', 'ValueError: my own mistake'),
    ('interrupt', 'process 1 of 2: interrupted in epoch 0, batch 3'),
    ('behind an if', 'is one behind an `if`?'),
])
def test_other_ends(tmp_path, how, words):
    done = end(tmp_path, how)
    assert words in done.stderr and 'ConnectionError: process 0 of 2' in done.stderr
    if how == 'error':       # in the launcher's summary too, and not only as "see above"
        assert 'my own mistake' in done.stderr.split('Root Cause')[1]
    assert done.seconds < 200


# ---- the example -------------------------------------------------------------------------------------------

def test_the_example_runs_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('LESSONDL_SAMPLE', '1')
    main = runpy.run_path(str(root/'examples'/'train_cifar10.py'))['main']
    main(['SimpleNet', '--epochs', '1', '--path', str(tmp_path), '--device', 'cpu'])
    assert (tmp_path/'SimpleNet.pt').exists()
    assert 'accuracy' in capsys.readouterr().out


@pytest.mark.e2e
def test_the_example_runs_in_two_processes(tmp_path):
    args = ['ConvBnNet', '--epochs', '2', '--bs', '50', '--path', tmp_path, '--device', 'cpu']
    done = launch(root/'examples'/'train_cifar10.py', *args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('accuracy') == 1 and done.stdout.count('stand-in') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['ConvBnNet.pt']
