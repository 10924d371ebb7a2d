"Names and calls that other rooms and other people's code rely on: they stay from release to release."
import importlib

import matplotlib
import numpy as np
import pytest

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from lessondl.cnn import SimpleNet
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.learner import Learner
from lessondl.metrics import accuracy

names = {
    'datasets': 'cifar10 digits nietzsche tiny_shakespeare text_corpus data_root fetch',
    'plots': 'show_image show_images',
    'data': 'ImageData',
    'schedules': 'linear cosine',
    'learner': 'Learner Callback CancelFit CancelEpoch CancelBatch',
    'metrics': 'accuracy error_rate f_beta f2 exp_rmspe',
    'distributed': 'distributed Group',
    'tabular': 'join_df add_datepart add_elapsed TabularData TabularModel',
    'transfer': 'vision_learner',
    'interpret': 'Interpretation SaveFeatures class_activation_map',
    'submission': 'submission',
    'cnn': 'SimpleNet ConvNet ConvLayer ConvNet2 BnLayer ConvBnNet ConvBnNet2 ResnetLayer Resnet Resnet2',
    'rnn': ('Char3Model CharLoopModel CharLoopConcatModel CharRnn CharSeqRnn CharSeqStatefulRnn '
            'CharSeqStatefulRnn2 CharSeqStatefulGRU CharSeqStatefulLSTM rnn_cell gru_cell lstm_cell TextData '
            'generate'),
}


@pytest.mark.parametrize('module', names)
def test_names(module):
    room = importlib.import_module(f'lessondl.{module}')
    assert [n for n in names[module].split() if n not in room.__all__] == []


def test_a_session_with_the_learner(tmp_path):
    arrays = cifar10_standin(64, 32)
    data = ImageData.from_arrays(*arrays, size=32, aug='flip+crop', bs=16, test=arrays[2])
    x, y = next(iter(data.train))
    assert len(data.train) == 4 and x.shape == (16, 3, 32, 32) and y.shape == (16,)
    learn = Learner(data, SimpleNet([32*32*3, 40, 10]), metrics=[accuracy], path=tmp_path)
    assert '123,330' in repr(learn.summary())
    learn.lr_find(); learn.recorder.plot_lr_find()
    learn.fit(1e-2, 2)
    learn.fit(1e-2, 3, cycle_len=1, cycle_mult=2)      # cycles of 1, 2 and 4 epochs
    learn.fit_one_cycle(3, slice(1e-5, 3e-4))
    assert len(learn.recorder.epochs) == 2 + 7 + 3
    learn.recorder.plot_lr(); learn.recorder.plot_loss(); plt.close('all')
    learn.freeze(); learn.unfreeze(); learn.freeze_bn()
    loss, acc = learn.validate()
    assert isinstance(loss, float) and isinstance(acc, float)
    (probs, _), (mean, labels) = learn.get_preds('test'), learn.tta()
    assert np.allclose(probs.sum(1), 1, atol=1e-5) and np.allclose(mean.sum(1), 1, atol=1e-5)
    assert (labels.numpy() == arrays[3]).all()
    name, i, p = learn.predict(arrays[2][0])
    assert name == data.classes[i] and p.shape == (10,)
    assert learn.save('64') == tmp_path/'64.pt'
    learn.load('64')
    assert learn.validate() == (loss, acc)
