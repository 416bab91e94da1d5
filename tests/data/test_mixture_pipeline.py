import numpy as np
import pytest

from keras_cosmo.data.augmentation import augment_squares
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.mixture_pipeline import MixturePipeline

FIELDS = ("intensity_halpha", "intensity_oiii")
N_MAPS, SIDE = 12, 8


@pytest.fixture
def database(tmp_path):
    generator = np.random.default_rng(3)
    maps = {field: (1e-10 * generator.lognormal(size=(N_MAPS, SIDE, SIDE)).astype(np.float32), "W") for field in FIELDS}
    path = tmp_path / "lines.h5"
    write_database(
        path,
        task="separation",
        fields=maps,
        parameters=(),
        parameter_values=np.zeros((N_MAPS, 0)),
        simulation=np.arange(N_MAPS),
        attributes={},
    )
    return Database(path)


def make(database, **options):
    return MixturePipeline(database, FIELDS, np.arange(2, 12), 3, seed=5, **options)


def test_observed_is_the_sum_and_components_are_paired_at_random(database):
    pipeline = make(database)
    pairs = set()
    for epoch in range(6):
        seen = [[], []]
        for step in range(pipeline.steps_per_epoch):
            observed, lines = pipeline.load(epoch * pipeline.steps_per_epoch + step)
            rows = pipeline.component_indices(epoch * pipeline.steps_per_epoch + step)
            for number, field in enumerate(FIELDS):
                np.testing.assert_array_equal(lines[..., number], database.read(field, rows[number]))
                seen[number] += rows[number].tolist()
            np.testing.assert_allclose(observed, lines.sum(-1), rtol=1e-6)
            pairs |= set(zip(*rows.tolist(), strict=True))
        assert all(len(set(each)) == 9 and min(each) >= 2 for each in seen)  # of 10 maps, once each, only ours
    assert len(pairs) > 30  # fixed pairs would be 10


def test_fixed_pairs_and_evaluation_take_the_same_row(database):
    pipeline = make(database, pairing="fixed")
    for step in range(7):
        first, second = pipeline.component_indices(step)
        np.testing.assert_array_equal(first, second)
    pipeline = make(database)
    found = [(observed.numpy(), lines.numpy()) for observed, lines in pipeline.evaluation(batch_size=4)]
    observed, lines = (np.concatenate(each) for each in zip(*found, strict=True))
    for number, field in enumerate(FIELDS):
        np.testing.assert_array_equal(lines[..., number], database.read(field, np.arange(2, 12)))
    np.testing.assert_allclose(observed, lines.sum(-1), rtol=1e-6)


def test_dataset_equals_load_and_resumes_anywhere(database):
    pipeline = make(database, augment=augment_squares, noise=1e-11, amplitude_scatter=0.1)
    for step, (observed, lines) in zip(range(5, 8), pipeline.training(5, 8), strict=True):
        assert observed.shape == (3, SIDE, SIDE)
        assert lines.shape == (3, SIDE, SIDE, 2)
        for given, expected in zip((observed, lines), pipeline.load(step), strict=True):
            np.testing.assert_array_equal(given.numpy(), expected)


def test_components_turn_by_themselves_unless_the_pairs_are_fixed(database):
    def turns(pairing):
        pipeline = make(database, augment=augment_squares, pairing=pairing)
        result = []
        for step in range(6):
            lines, rows = pipeline.load(step)[1], pipeline.component_indices(step)
            for place in range(3):
                found = []
                for number, field in enumerate(FIELDS):
                    original = database.read(field, rows[number, place : place + 1])[0]
                    same = [
                        np.array_equal(np.rot90(each, turn), lines[place, ..., number])
                        for each in (original, original.T)
                        for turn in range(4)
                    ]
                    assert sum(same) == 1
                    found.append(same.index(True))
                result.append(found)
        return result

    assert all(first == second for first, second in turns("fixed"))
    assert not all(first == second for first, second in turns("random"))


def test_amplitudes_background_and_noise(database):
    plain = next(iter(make(database).evaluation()))[1].numpy()
    observed, lines = (
        each.numpy() for each in next(iter(make(database, amplitudes=(1.2, 0.5), background=3e-10).evaluation()))
    )
    np.testing.assert_allclose(lines, plain * [1.2, 0.5], rtol=1e-6)
    np.testing.assert_allclose(observed, lines.sum(-1) + 3e-10, rtol=1e-5)

    scattered = make(database, background=3e-10, background_scatter=0.5)
    observed, lines = scattered.load(0)
    levels = observed - lines.sum(-1)
    assert np.ptp(levels, axis=(1, 2)).max() < 1e-15  # one level per map
    assert len(np.unique(np.round(levels[:, 0, 0] * 1e12))) == 3

    noisy = make(database, noise=2e-10)
    differences = np.concatenate([each - lines.sum(-1) for each, lines in map(noisy.load, range(300))])
    assert differences.std() == pytest.approx(2e-10, rel=0.02)
    alone = np.concatenate([each.numpy() for each, _ in noisy.evaluation(batch_size=1)])
    together = np.concatenate([each.numpy() for each, _ in noisy.evaluation(batch_size=7)])
    np.testing.assert_array_equal(alone, together)


def test_smoothed_noise_has_the_variance_of_a_smoothed_sky(database):
    sigma = 1.5
    pipeline = make(database, noise=1e-10, noise_smoothing=sigma)
    noise = np.concatenate([each - lines.sum(-1) for each, lines in map(pipeline.load, range(400))])
    k = 2 * np.pi * np.fft.fftfreq(SIDE)
    beam = np.exp(-0.5 * sigma**2 * (k[:, None] ** 2 + k**2))
    assert noise.var() == pytest.approx(1e-20 * np.mean(beam**2), rel=0.05)


def test_amplitude_scatter_is_one_factor_per_map_and_component(database):
    pipeline = make(database, amplitude_scatter=0.2)
    factors = []
    for step in range(200):
        lines, rows = pipeline.load(step)[1], pipeline.component_indices(step)
        for number, field in enumerate(FIELDS):
            ratio = lines[..., number] / database.read(field, rows[number])
            np.testing.assert_allclose(ratio, ratio[:, :1, :1] * np.ones_like(ratio), rtol=1e-5)
            factors.append(ratio[:, 0, 0])
    factors = np.log(np.concatenate(factors))
    assert factors.std() == pytest.approx(0.2, rel=0.1)
    assert abs(factors.mean()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "rows"}, "pairing: expected one of"),
        ({"noise": -1.0}, "noise: expected a finite number of at least 0"),
        ({"background": float("nan")}, "background: expected a finite number"),
        ({"amplitudes": (1.0,)}, "amplitudes: expected a positive factor for each of the 2"),
        ({"amplitudes": (1.0, 0.0)}, "amplitudes: expected a positive factor"),
    ],
)
def test_bad_arguments(database, options, message):
    with pytest.raises(ValueError, match=message):
        make(database, **options)


def test_fields_of_different_units_are_refused(tmp_path):
    maps = np.ones((4, 8, 8), np.float32)
    write_database(
        tmp_path / "x.h5",
        task="separation",
        fields={FIELDS[0]: (maps, "W"), FIELDS[1]: (maps, "mK")},
        parameters=(),
        parameter_values=np.zeros((4, 0)),
        simulation=np.arange(4),
        attributes={},
    )
    with pytest.raises(ValueError, match="components: expected fields of one unit"):
        MixturePipeline(Database(tmp_path / "x.h5"), FIELDS, [0, 1], 2, seed=0)


def test_augment_must_keep_the_shape(database):
    pipeline = make(database, augment=lambda maps, generator: maps[:, 1:])
    with pytest.raises(ValueError, match="augment: expected maps of shape"):
        pipeline.load(0)


@pytest.mark.parametrize("pairing", ["random", "fixed"])
def test_workers_make_the_rows_of_one_batch(database, pairing):
    """Pairs, turns, amplitudes, background and smoothed noise are those of the whole batch."""
    options = {"noise": 1e-10, "noise_smoothing": 0.7, "amplitude_scatter": 0.3, "background": 1e-10}
    options |= {"background_scatter": 0.5, "augment": augment_squares, "pairing": pairing}
    pipeline = make(database, **options)
    parts = [list(make(database, **options).training(2, 6, part, 3)) for part in range(3)]
    for step in range(2, 6):
        for kind, whole in enumerate(pipeline.load(step)):
            made = [part[step - 2][kind].numpy() for part in parts]
            assert [len(rows) for rows in made] == [1, 1, 1]
            np.testing.assert_array_equal(np.concatenate(made), whole)
