"The char-RNN room: what a lesson's examples cannot show; `nbs/10_char_rnn.ipynb` tests the rest."
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessondl import rnn as R
from lessondl.learner import Callback, Learner, SaveBest

TEXT = 'the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n' * 12
CELLS = {'RNN': (R.rnn_cell, nn.RNN), 'GRU': (R.gru_cell, nn.GRU), 'LSTM': (R.lstm_cell, nn.LSTM)}
STATEFUL = [R.CharSeqStatefulRnn, R.CharSeqStatefulRnn2, R.CharSeqStatefulGRU, R.CharSeqStatefulLSTM]
WINDOWED = [R.CharLoopModel, R.CharLoopConcatModel, R.CharRnn, R.CharSeqRnn]


def small(kind, vocab):
    torch.manual_seed(0)
    return kind(len(vocab), 5, 12)


# ---- cells -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', CELLS)
@settings(max_examples=15, deadline=None)
@given(steps=st.integers(1, 6), n=st.integers(1, 4), n_in=st.integers(1, 5), hidden=st.integers(1, 6),
       seed=st.integers(0, 999))
def test_cells_equal_pytorch(name, steps, n, n_in, hidden, seed):
    "In float64: outputs, last state, and the gradients of input, first state and all weights"
    torch.manual_seed(seed)
    cell, layer = CELLS[name]
    theirs = layer(n_in, hidden).double()
    weights = list(theirs.parameters())
    x = torch.randn(steps, n, n_in, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(n, hidden, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    states = states if name == 'LSTM' else states[:1]
    ours_out, ours_last = R.unroll(cell, x, tuple(states) if name == 'LSTM' else states[0], *weights)
    first = tuple(s[None] for s in states) if name == 'LSTM' else states[0][None]
    out, last = theirs(x, first)
    flat = lambda h: h if isinstance(h, tuple) else (h,)
    torch.testing.assert_close(ours_out, out)
    for a, b in zip(flat(ours_last), flat(last)):
        torch.testing.assert_close(a, b[0])
    v = torch.randn_like(out)
    wanted = [x, *states, *weights]
    grads = [torch.autograd.grad((o * v).sum(), wanted) for o in (ours_out, out)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', CELLS)
def test_a_cell_is_one_step_of_pytorchs_cell(name):
    cell, _ = CELLS[name]
    theirs = getattr(nn, f'{name}Cell')(4, 6)
    x, h = torch.randn(3, 4), torch.randn(3, 6)
    state = (h, torch.randn(3, 6)) if name == 'LSTM' else h
    ours = cell(x, state, theirs.weight_ih, theirs.weight_hh, theirs.bias_ih, theirs.bias_hh)
    torch.testing.assert_close(ours, theirs(x, state))


# ---- data ------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from('abc dé\n'), min_size=1, max_size=300), bs=st.integers(1, 9),
       bptt=st.integers(1, 20), valid=st.sampled_from([0, 0.2, 0.5]))
def test_streams_put_together_give_the_text(text, bs, bptt, valid):
    try:
        data = R.TextData(text, bs, bptt, valid)
    except ValueError as e:
        assert 'Take fewer streams (bs), a smaller bptt, or more text' in str(e)
        return
    cut = round(len(text) * (1 - valid))
    for loader, part in ((data.train, text[:cut]), (data.valid, text[cut:])):
        if loader is None:
            assert valid == 0
            continue
        xs, ys = zip(*loader)
        assert len(xs) == len(loader)
        assert [len(x) for x in xs[:-1]] == [bptt] * (len(xs) - 1) and 1 <= len(xs[-1]) <= bptt
        x, y = torch.cat(xs), torch.cat([y.view(-1, bs) for y in ys])
        n = x.numel()
        known = ''.join(c if c in data.vocab else R.UNKNOWN for c in part)
        assert R.decode(x.t().flatten(), data.vocab) == known[:n]
        assert R.decode(y.t().flatten(), data.vocab) == known[1:n + 1]
        assert len(part) - n <= bs


def test_streams_are_the_same_each_epoch():
    data = R.TextData(TEXT, bs=4, bptt=8)
    for (x, y), (x2, y2) in zip(data.train, data.train):
        assert torch.equal(x, x2) and torch.equal(y, y2)


@pytest.mark.parametrize('every', [False, True])
@pytest.mark.parametrize('step', [1, 3, 8])
def test_windows(every, step):
    data = R.WindowData(TEXT, n=8, bs=7, step=step, every=every)
    cut = round(len(TEXT) * 0.8)
    for loader, part in ((data.train, TEXT[:cut]), (data.valid, TEXT[cut:])):
        found = []
        for cs, y in loader:
            assert len(cs) == 8
            y = y.view(8 if every else 1, -1)
            for i in range(y.shape[1]):
                answers = R.decode(y[:, i], data.vocab)
                window = R.decode([c[i] for c in cs], data.vocab)
                assert answers[:-1] == (window[1:] if every else '')
                found.append(window + answers[-1])
        assert sorted(found) == sorted(part[i:i + 9] for i in range(0, len(part) - 8, step))
    first, second = ([y for _, y in data.train] for _ in range(2))
    assert not all(torch.equal(a, b) for a, b in zip(first, second))      # mixed anew


def test_line_ends_and_small_letters():
    data = R.TextData('AB\r\nc\rd\n' * 20, bs=2, bptt=3, lower=True)
    assert data.vocab == R.UNKNOWN + '\nabcd'
    assert '\r' not in R.TextData('a\r\n' * 50, bs=2).vocab


def test_characters_that_only_the_validation_part_has():
    data = R.TextData('ab' * 50 + 'xy' * 10, bs=2, bptt=3, valid=20 / 120)
    assert data.vocab == R.UNKNOWN + 'ab'
    assert all((x == 0).all() for x, _ in data.valid)


@pytest.mark.parametrize('call, words', [
    (lambda: R.TextData(''), 'text is empty'),
    (lambda: R.TextData('abc'), 'Take fewer streams'),
    (lambda: R.TextData(TEXT, bs=4, bptt=100_000), 'smaller bptt'),
    (lambda: R.TextData(TEXT, bs=20, bptt=2, valid=0.01), 'the validation part has'),
    (lambda: R.TextData(TEXT, bs=0), 'bs must be at least 1'),
    (lambda: R.TextData(TEXT, bptt=-1), 'bptt must be at least 1'),
    (lambda: R.TextData(TEXT, valid=1.), 'from 0 up to 1'),
    (lambda: R.TextData(TEXT, valid=-.1), 'from 0 up to 1'),
    (lambda: R.TextData(TEXT, valid=float('nan')), 'from 0 up to 1'),
    (lambda: R.WindowData('abcd', n=8), 'too short'),
    (lambda: R.WindowData(''), 'text is empty'),
    (lambda: R.WindowData(TEXT, n=0), 'n must be at least 1'),
])
def test_bad_texts(call, words):
    with pytest.raises(ValueError) as e:
        call()
    assert words in str(e.value)


@pytest.mark.parametrize('text', [b'bytes', None, ['a'], 3])
def test_what_is_no_text(text):
    with pytest.raises(TypeError, match='the text is a string'):
        R.TextData(text)


def test_files(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(('Größe und Café\r\n' * 40).encode('cp1252'))
    with pytest.raises(ValueError, match=r"a\.txt is not a text in utf-8 at byte 2\..*encoding='cp1252'"):
        R.TextData.from_file(path, bs=2)
    data = R.TextData.from_file(path, encoding='cp1252', bs=2)
    assert 'ö' in data.vocab and '\r' not in data.vocab
    with pytest.raises(ValueError, match="no encoding 'utf8000'"):
        R.TextData.from_file(path, encoding='utf8000')
    path.write_bytes(('\ufeff' + TEXT).encode())
    assert '\ufeff' not in R.TextData.from_file(path, bs=2).vocab       # a byte order mark is no character
    path.write_bytes(TEXT.encode('utf-16'))
    with pytest.raises(ValueError, match='not a text in utf-8'):
        R.TextData.from_file(path)
    assert R.read_text(path, 'utf-16') == TEXT
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='text is empty'):
        R.TextData.from_file(path)
    with pytest.raises(FileNotFoundError):
        R.TextData.from_file(tmp_path / 'none.txt')


# ---- models ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', STATEFUL)
def test_state(kind):
    data = R.TextData(TEXT, bs=4, bptt=8, valid=0)
    model = small(kind, data.vocab).eval()
    (x1, _), (x2, _) = list(data.train)[:2]
    with torch.no_grad():
        parts = torch.cat([model(x1), model(x2)])
        model.reset()
        torch.testing.assert_close(model(torch.cat([x1, x2])), parts)      # two batches are one long one
        model.train().eval()
        torch.testing.assert_close(model(x1), parts[:len(x1) * 4])         # train() and eval() begin anew
        other = model(x2[:, :3])                                           # another number of streams as well
        model.reset()
        torch.testing.assert_close(model(x2[:, :3]), other)
    model.train()
    for x, y in data.train:                                                # no history piles up
        F.nll_loss(model(x), y).backward()
        states = model.h if isinstance(model.h, tuple) else (model.h,)
        assert all(s.grad_fn is None for s in states)


@pytest.mark.parametrize('kind', STATEFUL)
def test_weights_fit_whatever_the_number_of_streams(kind, tmp_path):
    data = R.TextData(TEXT, bs=4, bptt=8)
    model = small(kind, data.vocab)
    model(next(iter(data.train))[0])
    assert not any('h' == k.split('.')[-1] for k in model.state_dict())    # the state is not saved
    torch.save(model.state_dict(), tmp_path / 'w.pt')
    other = small(kind, data.vocab)
    other(torch.zeros(3, 9, dtype=torch.int64))                            # a state of 9 streams
    other.load_state_dict(torch.load(tmp_path / 'w.pt', weights_only=True))
    x = next(iter(data.valid))[0]
    torch.testing.assert_close(other.eval()(x), model.eval()(x))
    copy.deepcopy(model)


@pytest.mark.parametrize('kind', WINDOWED + STATEFUL)
def test_each_trains_in_the_learner(kind, tmp_path):
    if kind in WINDOWED:
        data = R.WindowData(TEXT, bs=16, every=kind is R.CharSeqRnn)
    else:
        data = R.TextData(TEXT, bs=4, bptt=8)
    model = small(kind, data.vocab)
    learn = Learner(data, model, opt_func=torch.optim.Adam, path=tmp_path, progress=False, precision='fp32')
    before = learn.validate()
    assert before == learn.validate()                                      # nothing of the first run is left
    if kind in STATEFUL:
        model.train(); model(next(iter(data.train))[0])
        kept = model.h
        learn.lr_find(n=20)
        assert model.h is kept
    learn.fit(1e-2, 2, cycle_len=1, cycle_mult=2, cbs=R.SaveCycles('c', 2, cycle_mult=2))
    assert learn.validate()[0] < before[0]
    assert sorted(p.stem for p in tmp_path.glob('*.pt')) == ['c_1', 'c_2']
    saved = learn.validate()
    learn.load('c_2')
    assert learn.validate() == saved
    probs, y = learn.get_preds()
    assert probs.shape == (len(y), len(data.vocab))


def averaged(cbs=(), path='models', **kwargs):
    data = R.TextData(TEXT, bs=4, bptt=8)
    return Learner(data, small(R.CharSeqStatefulGRU, data.vocab), opt_func=torch.optim.Adam, cbs=cbs,
                   path=path, progress=False, precision='fp32', **kwargs)


class Keep(Callback):
    "The weights after each batch"
    order = 90
    def before_fit(self, learn): self.rows = [copy.deepcopy(learn.model.state_dict())]
    def after_batch(self, learn):
        if learn.training: self.rows.append(copy.deepcopy(learn.model.state_dict()))

    def mean(self, name, decay):
        mean = self.rows[0][name]
        for n, row in enumerate(self.rows[1:], 1):
            d = min(decay, n / (n + 10))
            mean = d * mean + (1 - d) * row[name]
        return mean


class Interrupt(Callback):
    def before_batch(self, learn):
        if learn.batch == 5 and learn.epoch == 1 and learn.training: raise KeyboardInterrupt


def check_average(learn, keep, decay):
    for name, w in learn.model.state_dict().items():
        torch.testing.assert_close(w, keep.mean(name, decay), msg=name)
        assert not torch.equal(w, keep.rows[-1][name])


def test_the_average_is_that_of_the_weights_and_changes_no_training(tmp_path):
    keep, plain = Keep(), averaged()
    plain.fit(1e-2, 2, cbs=keep)
    learn = averaged([R.AverageWeights(0.9)], tmp_path)
    learn.fit(1e-2, 2, cbs=R.SaveCycles('c', 2, 1))
    assert learn.recorder.losses == plain.recorder.losses
    check_average(learn, keep, 0.9)
    loss = learn.validate()[0]
    assert loss == pytest.approx(learn.recorder.epochs[-1]['valid_loss'])       # the average was validated,
    learn.load('c_2')
    assert learn.validate()[0] == loss                                          # and saved
    learn.fit(1e-2, 1)
    assert learn.validate()[0] != loss


def test_a_look_within_an_epoch_sees_the_average_and_changes_no_training():
    class Look(Callback):
        order = 95
        def after_batch(self, learn):
            if learn.training and learn.batch == 3: self.loss = learn.validate()[0]
    looks, losses = [Look(), Look()], []
    for look, cbs in zip(looks, ([], [R.AverageWeights(0.9)])):
        learn = averaged(cbs)
        learn.fit(1e-2, 2, cbs=look)
        losses.append(learn.recorder.losses)
    assert losses[0] == losses[1] and looks[0].loss != looks[1].loss


def test_an_interrupted_fit_leaves_the_average_and_one_without_validation_too(tmp_path):
    keep, learn = Keep(), averaged([R.AverageWeights(0.9)])
    learn.fit(1e-2, 3, cbs=[Interrupt(), keep])
    assert len(keep.rows) == len(learn.data.train) + 5 + 1
    check_average(learn, keep, 0.9)
    keep, learn = Keep(), averaged([R.AverageWeights(0.9)], tmp_path)
    learn.data.valid = None
    learn.fit(1e-2, 2, cbs=[keep, R.SaveCycles('c', 2, 1)])
    check_average(learn, keep, 0.9)
    learn.load('c_2')
    check_average(learn, keep, 0.9)


def test_the_best_epoch_comes_back_after_an_interrupt(tmp_path):
    learn = averaged([R.AverageWeights(0.9)], tmp_path)
    learn.fit(1e-2, 3, cbs=[Interrupt(), SaveBest()])
    assert learn.validate()[0] == pytest.approx(learn.recorder.epochs[0]['valid_loss'])


@pytest.mark.parametrize('decay', [1., -0.1, float('nan')])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ValueError, match='from 0 to below 1'): R.AverageWeights(decay)


def test_char3_is_the_loop_of_three():
    vocab = R.make_vocab(TEXT)
    a, b = small(R.Char3Model, vocab), small(R.CharLoopModel, vocab)
    b.load_state_dict(a.state_dict())
    cs = torch.randint(0, len(vocab), (3, 7))
    torch.testing.assert_close(a(*cs), b(*cs))


def test_an_embedding_that_is_too_small_is_pytorchs_own_error():
    data = R.TextData(TEXT, bs=4, bptt=8)
    learn = Learner(data, R.CharSeqStatefulGRU(5), opt_func=torch.optim.Adam, progress=False)
    with pytest.raises(IndexError, match='index out of range'): learn.fit(1e-2, 1)


# ---- writing ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', STATEFUL)
def test_generate(kind):
    data = R.TextData(TEXT, bs=4, bptt=8)
    model, vocab = small(kind, data.vocab), data.vocab
    model(next(iter(data.train))[0])
    before, mode = model.h, model.training
    text = R.generate(model, vocab, 'the ', 30, seed=3)
    assert text.startswith('the ') and len(text) == 34 and set(text) <= set(vocab) - {R.UNKNOWN}
    assert model.h is before and model.training == mode
    assert text == R.generate(model, vocab, 'the ', 30, seed=3)
    assert text != R.generate(model, vocab, 'the ', 30, seed=4)
    greedy = R.generate(model, vocab, 'the ', 30, temperature=0)
    assert greedy == R.generate(model, vocab, 'the ', 30, temperature=0, seed=9)
    assert greedy == R.generate(model, vocab, 'the ', 30, top_k=1)
    assert greedy == R.generate(model, vocab, 'the ', 30, temperature=1e-6)
    assert R.generate(model, vocab, 'the ', 0) == 'the '
    assert len(R.generate(model, vocab, 't', 5, top_k=10_000)) == 6
    torch.manual_seed(0)
    first = R.generate(model, vocab, 'the ', 30)
    torch.manual_seed(0)
    assert first == R.generate(model, vocab, 'the ', 30)                   # without a seed: PyTorch's draw


@pytest.mark.parametrize('kwargs, error, words', [
    (dict(prompt=''), ValueError, 'prompt is empty'),
    (dict(prompt='THE é'), ValueError, "'E', 'H', 'T', 'é'"),
    (dict(prompt=R.UNKNOWN), ValueError, 'does not know'),
    (dict(temperature=-0.5), ValueError, 'temperature must be 0'),
    (dict(temperature=float('nan')), ValueError, 'temperature must be 0'),
    (dict(temperature=float('inf')), ValueError, 'above and finite'),
    (dict(top_k=0), ValueError, 'top_k must be at least 1'),
    (dict(n=-1), ValueError, '0 or more'),
    (dict(model=R.CharRnn(5)), TypeError, 'keeps its state'),
    (dict(vocab=R.UNKNOWN + 'the '), ValueError, 'this vocabulary has 5'),
    (dict(vocab=R.make_vocab(TEXT) + 'é', prompt='thé '), ValueError, 'take the vocab of the text'),
])
def test_generate_refuses(kwargs, error, words):
    vocab = R.make_vocab(TEXT)
    model = small(R.CharSeqStatefulGRU, vocab)
    with pytest.raises(error) as e:
        R.generate(**{'model': model, 'vocab': vocab, 'prompt': 'the ', 'n': 3, **kwargs})
    assert words in str(e.value)
    assert model.h is None and model.training


def test_a_net_without_l_out_is_asked_for_its_size():
    class Own(R.CharSeqStatefulGRU):
        def __init__(self, size):
            super().__init__(size, 5, 12)
            self.answer = self.l_out
            del self.l_out

        def forward(self, cs):
            outp, self.h = self.rnn(self.e(cs), self.state(cs.shape[1]))
            return F.log_softmax(self.answer(outp), dim=-1).flatten(0, 1)
    vocab = R.make_vocab(TEXT)
    assert len(R.generate(Own(len(vocab)), vocab, 'the ', 3)) == 7
    with pytest.raises(ValueError, match='take the vocab of the text'):
        R.generate(Own(len(vocab)), vocab + 'é', 'the ', 3)


def test_the_unknown_character_is_never_written():
    vocab = R.make_vocab('ab')
    model = small(R.CharSeqStatefulRnn, vocab)
    with torch.no_grad():
        model.l_out.bias[0] = 100.
    for temperature in (0, 1):
        assert R.UNKNOWN not in R.generate(model, vocab, 'a', 20, temperature=temperature)


@settings(max_examples=30, deadline=None)
@given(v=st.integers(2, 20), k=st.integers(1, 25), seed=st.integers(0, 99))
def test_draw_stays_among_the_likeliest(v, k, seed):
    g = torch.Generator().manual_seed(seed)
    logp = torch.randperm(v, generator=g).float().log_softmax(0)
    best = set(logp.topk(min(k, v)).indices.tolist())
    assert {R.draw(logp, 5., k, g) for _ in range(20)} <= best


@pytest.mark.parametrize('temperature', [1e-20, 1e-39, 1e-46, 5e-324])
@pytest.mark.parametrize('top_k', [None, 2])
def test_any_cold_is_the_likeliest(temperature, top_k):
    logp = torch.tensor([-3., -0.5, -0.6, -torch.inf])
    assert {R.draw(logp, temperature, top_k) for _ in range(20)} == {1}


def test_temperature_is_a_power_of_the_probabilities():
    p = torch.tensor([.1, .2, .7])
    g = torch.Generator().manual_seed(0)
    drawn = torch.tensor([R.draw(p.log(), 0.5, None, g) for _ in range(4000)]).bincount(minlength=3) / 4000
    torch.testing.assert_close(drawn, p**2 / (p**2).sum(), atol=0.03, rtol=0)


def test_trace_opens_the_nets():
    "Lesson 03's trace takes the loops, the state included"
    from lessondl.trace import trace
    vocab = R.make_vocab('abc')
    cs = tuple(torch.tensor([1, 2]) for _ in range(3))
    for kind in (R.Char3Model, R.CharLoopModel, R.CharLoopConcatModel, R.CharRnn):
        model = small(kind, vocab).eval()
        value = trace(model, *cs).outputs[0].value.float()
        torch.testing.assert_close(value, model(*cs), atol=1e-5, rtol=1e-5)
    x = torch.randint(0, 4, (3, 2))
    for kind in STATEFUL:
        model = small(kind, vocab).eval()
        with torch.no_grad():
            value = model(x)
        model.reset()
        torch.testing.assert_close(trace(model, x).outputs[0].value.float(), value, atol=1e-5, rtol=1e-5)
        assert model.h is None
