"Bad tables are refused by name, and what is fast equals what is plain."
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lessondl import tabular
from lessondl.learner import Learner
from lessondl.metrics import accuracy, exp_rmspe
from lessondl.tabular import (
    TableLoader,
    TablePrep,
    TabularData,
    TabularModel,
    add_datepart,
    add_elapsed,
    add_rolling,
    as_dates,
    draw_stores,
    embedding_sizes,
    join_df,
    read_tables,
    rmspe,
    save_feather,
    store_features,
    table_names,
)


@pytest.fixture(scope='module')
def tables():
    return draw_stores(6)


@pytest.fixture(scope='module')
def frames(tables):
    return store_features(tables)


# ---- joining -----------------------------------------------------------------------------------------------

left = pd.DataFrame({'Store': [3, 1, 2, 1], 'Sales': [30., 10, 20, 11]}, index=[7, 7, 8, 9])
right = pd.DataFrame({'Store': [1, 2], 'Type': ['a', 'b'], 'Sales': [0., 0]})


def test_join_keeps_every_row_in_order_and_counts_the_lonely(capsys):
    out = join_df(left, right, 'Store')
    assert out.Store.tolist() == [3, 1, 2, 1] and out.Sales.tolist() == [30, 10, 20, 11]
    assert out.Type.tolist()[1:] == ['a', 'b', 'a'] and out.Type.isna().tolist() == [True] + 3 * [False]
    assert 'Sales_y' in out and out.index.tolist() == [0, 1, 2, 3]
    assert '1 of 4 rows have no partner' in (said := capsys.readouterr().out) and 'Store=3' in said


def test_join_says_nothing_where_all_is_well(capsys):
    join_df(left[left.Store < 3], right, 'Store')
    assert capsys.readouterr().out == ''


def test_a_key_twice_on_the_right_is_refused_or_counted(capsys):
    twice = pd.concat([right, right[:1]])
    with pytest.raises(ValueError, match='1 rows of the right table repeat a key, for example Store=1'):
        join_df(left, twice, 'Store')
    assert len(join_df(left, twice, 'Store', many=True)) == 6
    assert '4 rows became 6' in capsys.readouterr().out


def test_a_missing_key_matches_nothing():
    a = pd.DataFrame({'k': [1., np.nan], 'v': [1, 2]})
    b = pd.DataFrame({'k': [1., np.nan, np.nan], 'w': [10., 20., 30.]})
    assert join_df(a, b, 'k').w.isna().tolist() == [False, True]


def test_keys_of_two_kinds_and_absent_keys():
    with pytest.raises(ValueError, match='number on the left .* text on the right'):
        join_df(left, right.assign(Store=right.Store.astype(str)), 'Store')
    with pytest.raises(ValueError, match="right table has no column 'store'; near it: Store"):
        join_df(left.assign(store=1), right, 'store')
    with pytest.raises(ValueError, match='2 keys on the left, 1 on the right'):
        join_df(left, right, ['Store', 'Sales'], 'Store')
    days = pd.DataFrame({'Date': pd.date_range('2015-01-01', periods=2)})
    with pytest.raises(ValueError, match='a date on the left .* and a date of a time zone on the right'):
        join_df(days, days.assign(Date=days.Date.dt.tz_localize('UTC')), 'Date')


# ---- dates -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('values, message', [
    (['2015-01-31', '2015-02-31'], r"row 1 \(index 1\): the date is '2015-02-31', no date.*; 1 such rows"),
    (['2015-01-31', 'soon', ''], "row 1 .* is 'soon', no date.*2 such rows"),
    (['31.01.2015', '2015-02-01'], "row 1 .*'2015-02-01'"),
    (['2015-01-31', None], 'row 1 .* the date is missing'),
    ([20150131, 20150201], "holds numbers such as 20150131: give the format"),
    (pd.Series([20150131, 20150201], dtype=object), "holds numbers such as 20150131: give the format"),
    (pd.Series([None, 20150131], dtype=object), "holds numbers such as 20150131: give the format"),
    (pd.Series([20150131., 20150201], dtype=object), "holds numbers such as 20150131.0: give the format"),
    (pd.Series([20150131, 20150201], dtype='category'), "holds numbers such as 20150131: give the format"),
    (['2015-01-31', 20150201], "holds numbers such as 20150201: give the format"),
    ([True, False], "holds numbers such as True: give the format"),
    (['2015-01-31T00:00+01:00', '2015-01-31T00:00+01:00'], 'time zone'),
    (['2015-01-31T00:00+01:00', '2015-07-31T00:00+02:00'], 'mixes time zones'),
])
def test_dates_that_are_none(values, message):
    with pytest.raises(ValueError, match=message): add_datepart(pd.DataFrame({'Date': values}), 'Date')


def test_a_time_zone_is_refused():
    s = pd.Series(pd.date_range('2015-01-01', periods=2, tz='Europe/Berlin'))
    with pytest.raises(ValueError, match='time zone Europe/Berlin'): as_dates(s)


@pytest.mark.parametrize('kind', ['int64', 'float64', object, 'category', 'Int64', 'str'])
def test_numbers_with_a_format(kind):
    dates = as_dates(pd.Series([20150131, 20150201]).astype(kind), format='%Y%m%d')
    assert dates.tolist() == [pd.Timestamp('2015-01-31'), pd.Timestamp('2015-02-01')]


def test_dates_in_columns_of_objects():
    day = pd.Timestamp('2015-01-31')
    for value in (day, day.date(), day.to_pydatetime(), '2015-01-31'):
        assert as_dates(pd.Series([value, value], dtype=object)).tolist() == [day, day]
        assert as_dates(pd.Series([value, value], dtype='category')).tolist() == [day, day]


def test_date_parts_equal_the_calendar():
    days = pd.date_range('2011-12-20', '2016-03-05')
    out = add_datepart(pd.DataFrame({'SaleDate': days.strftime('%Y-%m-%d')}), 'SaleDate')
    for day, row in zip(days.date, out.itertuples()):
        assert (row.SaleYear, row.SaleMonth, row.SaleDay) == (day.year, day.month, day.day)
        assert (row.SaleWeek, row.SaleDayofweek) == (day.isocalendar()[1], day.weekday())
        assert row.SaleDayofyear == day.timetuple().tm_yday and row.SaleQuarter == (day.month + 2) // 3
        assert row.SaleIs_month_start == (day.day == 1) and row.SaleIs_year_start == (row.SaleDayofyear == 1)
        assert row.SaleElapsed == (day - day.replace(1970, 1, 1)).days * 86400
    tomorrow = out.SaleDay.shift(-1) == 1
    assert (out.SaleIs_month_end[:-1] == tomorrow[:-1]).all()
    assert (out.SaleIs_quarter_end[:-1] == (tomorrow & (out.SaleMonth % 3 == 0))[:-1]).all()
    assert (out.SaleIs_year_end[:-1] == (tomorrow & (out.SaleMonth == 12))[:-1]).all()


def test_date_parts_do_not_overwrite_and_may_be_made_twice():
    df = pd.DataFrame({'Date': ['2015-01-31'], 'Year': [99]})
    with pytest.raises(ValueError, match="another column 'Year'"): add_datepart(df, 'Date')
    assert {'Year', 'DateYear'} <= set(add_datepart(df, 'Date', prefix='Date'))
    once = add_datepart(df.drop(columns='Year'), 'Date')
    assert add_datepart(once, 'Date').equals(once)
    assert 'Date' not in add_datepart(df, 'Date', drop=True, prefix='x') and list(df) == ['Date', 'Year']


# ---- durations ---------------------------------------------------------------------------------------------

def plain_elapsed(df, col):
    "Days since and until, row by row: the same (group, day) counts as one"
    after, before = [], []
    for store, day in zip(df.Store, df.Date):
        events = df.Date[(df.Store == store) & (df[col] != 0)]
        past, next_ = events[events <= day], events[events >= day]
        after.append((day - past.max()).days if len(past) else np.nan)
        before.append((next_.min() - day).days if len(next_) else np.nan)
    return np.array(after), np.array(before)


row = st.tuples(st.integers(1, 3), st.integers(0, 12), st.booleans(), st.integers(0, 3))
rows = st.lists(row, max_size=25)


@settings(deadline=None, max_examples=60)
@given(rows)
def test_elapsed_and_rolling_equal_the_plain_way(rows):
    kinds = {'Store': int, 'day': int, 'Event': bool, 'Number': int}
    df = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
    df['Date'] = pd.Timestamp('2015-01-28') + pd.to_timedelta(df.day, unit='D')
    out = add_rolling(add_elapsed(df, 'Event'), 'Number', days=3)
    after, before = plain_elapsed(df, 'Event')
    np.testing.assert_array_equal(out.AfterEvent, after)
    np.testing.assert_array_equal(out.BeforeEvent, before)
    for k, row in enumerate(df.itertuples()):
        gap = df.day - row.day
        same = df.Store == row.Store
        assert out.Number_bw[k] == df.Number[same & (gap <= 0) & (gap > -3)].sum()
        assert out.Number_fw[k] == df.Number[same & (gap >= 0) & (gap < 3)].sum()


def test_more_groups_and_days_than_16_bits():
    n = 70_000
    df = pd.DataFrame({'Store': np.arange(n)[::-1], 'Date': pd.Timestamp('1900-01-01'), 'Event': 1})
    df.loc[0, 'Date'] = pd.Timestamp('2100-01-01')
    assert (add_elapsed(df, 'Event')[['AfterEvent', 'BeforeEvent']] == 0).all().all()


def test_elapsed_refuses():
    df = pd.DataFrame({'Store': [1, 1], 'Date': ['2015-01-01', '2015-01-02'], 'Holiday': ['0', 'a'],
                       'E': [0, np.nan]})
    with pytest.raises(ValueError, match="'Holiday' holds .* say what an event "
                                         "is"): add_elapsed(df, 'Holiday')
    with pytest.raises(ValueError, match="'E', row 1: missing"): add_elapsed(df, 'E')
    with pytest.raises(ValueError, match="'Store' is missing in row 1"):
        add_elapsed(df.assign(Store=[1, np.nan], E=0), 'E')
    with pytest.raises(ValueError, match='no column'): add_elapsed(df, 'Sunday')
    with pytest.raises(ValueError, match='1 or more'): add_rolling(df, 'E', days=0)
    with pytest.raises(ValueError, match='numbers with none missing'): add_rolling(df, 'E')
    with pytest.raises(ValueError, match="'E', row 1: an infinite number"):
        add_rolling(df.assign(E=[0., np.inf]), 'E')


# ---- the drawn tables --------------------------------------------------------------------------------------

def test_the_tables_have_the_layout_of_the_files(tables, tmp_path):
    assert tuple(tables) == table_names
    begin, end = ['Store', 'DayOfWeek', 'Date'], ['Open', 'Promo', 'StateHoliday', 'SchoolHoliday']
    assert list(tables['train']) == [*begin, 'Sales', 'Customers', *end]
    assert list(tables['test']) == ['Id', *begin, *end]
    assert list(tables['googletrend']) == ['file', 'week', 'trend']
    assert draw_stores(6)['train'].equals(tables['train'])          # the same seed, the same tables
    for name, table in tables.items(): table.to_csv(tmp_path/f'{name}.csv', index=False)
    again = read_tables(tmp_path)
    for name in table_names: pd.testing.assert_frame_equal(again[name], tables[name], check_dtype=False)
    (tmp_path/'store.csv').unlink()
    with pytest.raises(FileNotFoundError, match='lacks store.csv'): read_tables(tmp_path)


def test_a_copy_of_the_reader_is_found_and_its_names_understood(tables, frames, tmp_path, monkeypatch):
    """The competition's own names of files in googletrend, and a byte order mark that a spreadsheet program
    left"""
    copy = dict(tables, googletrend=tables['googletrend'].replace('Stores_DE', 'Rossmann_DE', regex=True))
    whole = pd.DataFrame({'file': 'Rossmann_DE', 'week': tables['googletrend'].week[:2], 'trend': 50})
    copy['googletrend'] = pd.concat([copy['googletrend'], whole])
    (tmp_path/'rossmann').mkdir()
    for name, table in copy.items():
        table.to_csv(tmp_path/'rossmann'/f'{name}.csv', index=False, encoding='utf-8-sig')
    monkeypatch.setenv('LESSONDL_DATA', str(tmp_path)); monkeypatch.setenv('LESSONDL_SAMPLE', '0')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    assert tabular.stores() == tmp_path/'rossmann'
    train, test = tabular.load_stores()
    pd.testing.assert_frame_equal(train, frames[0], check_dtype=False)
    assert len(list((tmp_path/'cache').rglob('*.feather'))) == 2
    monkeypatch.setattr(tabular, 'store_features', None)             # not made again, but read
    assert tabular.load_stores()[1].equals(test)


def test_features(frames, tables):
    train, test = frames
    assert (train.Sales > 0).all() and len(test) == len(tables['test']) and 'Sales' not in test
    assert train.State.notna().all() and train.trend.notna().all() and test.Max_TemperatureC.notna().all()
    assert test.Id.tolist() == tables['test'].Id.tolist()
    last = train[train.Date == train.Date.max()]
    assert last.BeforePromo.notna().all()      # the plans of the test's days were known


def test_feather_replaces_whole(tmp_path, monkeypatch):
    df = pd.DataFrame({'a': [1, 2]}, index=[5, 6])
    file = save_feather(df, tmp_path/'x.feather')
    assert pd.read_feather(file).a.tolist() == [1, 2]
    def fail(self, path): open(path, 'w').write('half'); raise OSError('disk full')
    monkeypatch.setattr(pd.DataFrame, 'to_feather', fail)
    with pytest.raises(OSError, match='disk full'): save_feather(df, file)
    assert pd.read_feather(file).a.tolist() == [1, 2] and len(list(tmp_path.iterdir())) == 1


# ---- from a frame ------------------------------------------------------------------------------------------

def table(n=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame({'Date': pd.date_range('2015-01-01', periods=n), 'Store': np.arange(n) % 4,
                         'Kind': np.array(list('ab'))[np.arange(n) % 2], 'Distance': rng.uniform(1, 9, n),
                         'Sales': rng.uniform(100, 200, n)})


def make(df, cats=('Store', 'Kind'), conts=('Distance',), valid='2015-02-01', y='Sales', **kw):
    return TabularData.from_frame(df, y, cats, conts, valid=valid, bs=8, **kw)


def test_batches():
    data = make(table(), test=table(5).drop(columns='Sales'), log_y=True)
    (cats, conts), y = data.one_batch()
    assert cats.dtype == torch.int64 and conts.dtype == y.dtype == torch.float32
    assert cats.shape == (8, 2) and conts.shape == (8, 1) and y.shape == (8, 1)
    assert len(data.train) == 4 and len(data.valid.y) == 9 and data.prep.sizes == [(5, 3), (3, 2)]
    assert data.test.y.isnan().all()
    x = data.train.conts
    assert abs(x.mean()) < 1e-6 and abs(x.std(correction=0) - 1) < 1e-6
    again = data.decode((data.valid.cats, data.valid.conts))
    held = table()[31:].reset_index(drop=True)
    assert again.Kind.tolist() == held.Kind.tolist() and np.allclose(again.Distance, held.Distance)
    assert np.allclose(data.valid.y[:, 0].exp(), held.Sales)
    assert len(data.show_batch(3)) == 3


def test_an_epoch_takes_every_row_once_in_a_new_order():
    y = torch.arange(10.)[:, None]
    loader = TableLoader(torch.zeros(10, 1, dtype=int), torch.zeros(10, 1), y, 4, shuffle=True)
    first, second = (torch.cat([b for _, b in loader]) for _ in range(2))
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(10))
    assert not torch.equal(first, second) and len(loader) == 3
    assert [len(b) for _, b in TableLoader(y.long(), y, y, 4, drop_last=True)] == [4, 4]
    with pytest.raises(ValueError, match='gives no batch'): TableLoader(y.long(), y, y, 0)


def test_unseen_and_missing_categories_are_level_0(capsys):
    df = table(); df.loc[35, 'Kind'] = 'z'; df.loc[36, 'Kind'] = None
    data = make(df)
    assert data.valid.cats[4:6, 1].tolist() == [0, 0]
    said = capsys.readouterr().out
    assert "validation: 1 rows hold a Kind that training did not have, such as 'z': level 0" in said


def test_levels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match='no value of Store, such as .0., was in training'):
        make(table(), test=table().assign(Store=table().Store.astype(str)))
    mixed = table().astype({'Kind': object}); mixed.loc[3, 'Kind'] = 0
    with pytest.raises(ValueError, match="'Kind' mixes int and str"): make(mixed)


def test_one_new_row_may_hold_a_new_value(capsys):
    data = make(table())
    row = table().iloc[[0]].assign(Store=99)
    assert data.prep(row, 'a new row')[0].tolist() == [[0, *data.prep(table().iloc[[0]])[0][0, 1:].tolist()]]
    assert '99: level 0' in capsys.readouterr().out


def test_zeros_and_ones_are_no_row_numbers():
    with pytest.raises(ValueError, match='astype.bool.'):
        make(table(), valid=(table().index >= 31).astype(int))


def test_a_look_at_a_batch_does_not_count_as_an_epoch():
    data = make(table())
    first = data.one_batch()
    data.show_batch()
    assert data.train.epoch == 0
    again = next(iter(data.train))
    assert all(torch.equal(a, b) for a, b in zip([*first[0], first[1]], [*again[0], again[1]]))


def test_missing_numbers_get_median_and_marker(capsys):
    df = table(); df.loc[[2, 5, 33], 'Distance'] = np.nan
    data = make(df)
    assert data.prep.cats == ['Store', 'Kind', 'Distance_na'] and data.train.cats[:, 2].tolist().count(2) == 2
    assert data.valid.cats[2, 2] == 2
    median, mean, std = data.prep.stats['Distance']
    assert median == df.Distance[:31].median() and np.isclose(data.train.conts[2] * std + mean, median)
    late = table(); late.loc[33, 'Distance'] = np.nan
    assert make(late).prep.cats == ['Store', 'Kind'] and 'never in training' in capsys.readouterr().out


@pytest.mark.parametrize('change, message', [
    (dict(Distance=np.nan), 'nothing but missing values in training: column Distance'),
    (dict(Kind=None), 'nothing but missing values in training: column Kind'),
    (dict(Distance=['far'] * 40), "'Distance' is to be continuous and holds .*'far'"),
    (dict(Distance=pd.Timestamp('2015-01-01')), "'Distance' holds dates"),
    (dict(Distance=[1., -np.inf] + [np.inf] * 38),
     r"'Distance', row 1 \(index 1\): -inf; 30 values are infinite"),
    (dict(Sales=[1., np.nan] + [2.] * 38), r"target 'Sales', row 1 \(index 1\): nan; 1 such rows"),
    (dict(Sales=[1., 0.] + [2.] * 38), "'Sales', row 1 .*: 0.0; 1 such rows. The logarithm of 0"),
    (dict(Sales=[1., -3.] + [2.] * 38), 'A negative number has no logarithm'),
])
def test_columns_that_cannot_be_used(change, message):
    with pytest.raises(ValueError, match=message): make(table().assign(**change), log_y=True)


@pytest.mark.parametrize('call, message', [
    (dict(cats=('Stor',)), "has no column 'Stor'; near it: Store"),
    (dict(cats=('Sales',)), "the target 'Sales' is among"),
    (dict(cats=('Distance',)), 'named twice among cats and conts: Distance'),
    (dict(cats=(), conts=()), 'give the names of columns'),
    (dict(valid='2016-01-01'), 'leaves 40 rows to train on and 0'),
    (dict(valid='2014-01-01'), 'leaves 0 rows to train on'),
    (dict(valid=[99]), 'out of bounds'),
    (dict(valid=pd.Timestamp('2015-06-14', tz='UTC')), 'a date without time zone'),
    (dict(valid=np.ones(3, bool)), '3 True or False for 40 rows'),
    (dict(y='Sale'), "no column 'Sale'"),
    (dict(test=table().drop(columns='Distance')), "the test table has no column 'Distance'"),
    (dict(y='Kind', cats=('Store',), log_y=True), 'log_y needs numbers'),
])
def test_calls_that_cannot_work(call, message):
    with pytest.raises(ValueError, match=message): make(table(), **call)


def test_rows_named_by_number_or_truth():
    a = make(table(), valid=np.arange(31, 40)); b = make(table(), valid=np.arange(40) >= 31)
    assert torch.equal(a.valid.y, make(table()).valid.y) and torch.equal(a.valid.y, b.valid.y)


def test_only_numbers_or_only_categories_and_a_constant_column():
    for cats, conts in (((), ('Distance',)), (('Store',), ())):
        data = make(table(), cats=cats, conts=conts)
        (x, z), y = data.one_batch()
        assert TabularModel(data.prep.sizes, len(conts))(x, z).shape == y.shape
    assert (make(table().assign(Distance=3.)).train.conts == 0).all()


@pytest.mark.parametrize('value', [0.1, 1 / 3, 1e9 + 0.1, -7e-12])
def test_a_constant_column_is_not_divided_by_rounding(value):
    prep = TablePrep(pd.DataFrame({'x': np.full(1000, value)}), [], ['x'])
    _, conts = prep(pd.DataFrame({'x': [value, value + 1, np.nan]}))
    assert np.allclose(conts[:, 0], [0, 1, 0], atol=1e-6)


# ---- the model ---------------------------------------------------------------------------------------------

def test_embedding_sizes():
    assert embedding_sizes([2, 3, 8, 99, 1116]) == [(2, 1), (3, 2), (8, 4), (99, 50), (1116, 50)]


def test_model_range_precision_and_gradients():
    model = TabularModel([(5, 3), (3, 2)], 2, layers=[8, 4], ps=[.1, 0], emb_drop=.1, y_range=(7., 11.))
    cats, conts = torch.tensor([[0, 0], [4, 2], [1, 1]]), torch.randn(3, 2)
    assert (model.embs[0].weight[0] == 0).all()
    with torch.autocast('cpu', dtype=torch.bfloat16): y = model(cats, conts)
    assert y.dtype == torch.float32 and y.shape == (3, 1) and (y > 7).all() and (y < 11).all()
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match='2 embeddings, the batch 1'): model(cats[:, :1], conts)
    with pytest.raises(ValueError, match='1 dropouts for 2'):
        TabularModel([(5, 3)], 0, layers=[8, 4], ps=[.1])
    with pytest.raises(ValueError, match='from low to high'): TabularModel([(5, 3)], 0, y_range=(2., 2.))


def test_a_session_with_the_learner(tmp_path):
    df = pd.concat([table()] * 8, ignore_index=True)
    df['Sales'] = 100. + 50 * (df.Kind == 'a') + 5 * df.Distance
    data = make(df, valid=np.arange(280, 320), test=df[:5].drop(columns='Sales'), log_y=True)
    torch.manual_seed(0)
    model = TabularModel(data.prep.sizes, 1, layers=[16], y_range=data.y_range)
    learn = Learner(data, model, F.mse_loss, torch.optim.Adam, metrics=[exp_rmspe], path=tmp_path)
    before = learn.validate()[1]
    learn.lr_find(n=20); learn.fit_one_cycle(8, 1e-2)
    assert learn.validate()[1] < min(before, .08)
    pred, y = learn.get_preds('test')
    assert pred.shape == (5, 1) and y.isnan().all() and '1 (Linear)' not in repr(learn.summary())
    sales = df.Sales[:5].to_numpy()
    assert np.isclose(rmspe(pred.exp(), sales), exp_rmspe(pred, np.log(sales)), rtol=1e-3)


def test_classes(tmp_path):
    df = table(80); df['Kind'] = np.where(df.Distance > 5, 'far', 'near')
    data = make(df, cats=('Store',), y='Kind', valid=np.arange(60, 80), test=df)
    assert data.classes == ['far', 'near'] and data.test.y.tolist() == [-1] * 80
    torch.manual_seed(0)
    model = TabularModel(data.prep.sizes, 1, 2, layers=[16])
    learn = Learner(data, model, metrics=[accuracy], opt_func=torch.optim.Adam, path=tmp_path)
    learn.fit(1e-2, 8)
    assert learn.validate()[1] > .8 and set(data.show_batch().Kind) <= {'far', 'near'}


def test_a_relative_error_of_nothing():
    with pytest.raises(ValueError, match='y is 0 in row 1'): rmspe([1., 2.], [1., 0.])
    with pytest.raises(ValueError, match='two vectors'): rmspe([1.], [1., 2.])
    with pytest.raises(ValueError, match='y is inf in row 1'): rmspe([1., 2.], [1., np.inf])
    with pytest.raises(ValueError, match='pred is nan in row 0'): rmspe([np.nan, 2.], [1., 1.])
    assert np.isclose(rmspe(torch.tensor([[90.], [220.]]), [100., 200.]), .1)


def test_the_marker_has_its_name_to_itself():
    df = table().assign(Distance_na='x'); df.loc[3, 'Distance'] = np.nan
    with pytest.raises(ValueError, match='Distance_na is the name of the marker'):
        make(df, cats=('Distance_na',))
