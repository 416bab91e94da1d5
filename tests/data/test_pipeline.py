import logging

import h5py
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.data.augmentation import augment_squares, square_symmetry
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.pipeline import MapPipeline
from keras_cosmo.quantities import Parameter

COUNT = 23


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    maps = np.random.default_rng(0).standard_normal((COUNT, 6, 6), np.float32).astype(np.float16)
    # The first pixel tells which map it is.
    maps[:, 0, 0] = np.arange(COUNT)
    path = tmp_path_factory.mktemp("pipeline") / "a.h5"
    write_database(
        path, task="t", fields={"signal": (maps, "mK"), "density": (-maps, ""), "wide": (maps[:, :, :4], "")},
        parameters=(Parameter(name="a", low=0, high=100), Parameter(name="b", low=0, high=1)),
        parameter_values=np.stack([np.arange(COUNT) + 0.5, np.zeros(COUNT)], axis=1), simulation=np.arange(COUNT),
        attributes={}, dtype="float16",
    )  # fmt: skip
    return path


@pytest.fixture
def database(path):
    return Database(path)


def pipeline_of(database, inputs="signal", targets=None, indices=None, batch_size=4, seed=1, **options):
    return MapPipeline(
        database, inputs, targets, range(COUNT) if indices is None else indices, batch_size, seed, **options
    )


def batches_of(dataset):
    return [(maps.numpy(), targets.numpy()) for maps, targets in dataset]


def test_content_shapes_and_dtypes(database):
    pipeline = pipeline_of(database)
    assert (pipeline.steps_per_epoch, pipeline.input_shape, pipeline.target_shape) == (5, (6, 6), (2,))
    dataset = pipeline.training(0, 3)
    assert dataset.element_spec == (tf.TensorSpec((4, 6, 6), tf.float32), tf.TensorSpec((4, 2), tf.float32))
    assert int(dataset.cardinality()) == 3
    for step, (maps, targets) in enumerate(batches_of(dataset)):
        chosen = maps[:, 0, 0].astype(int)
        np.testing.assert_array_equal(chosen, pipeline.step_indices(step))
        np.testing.assert_array_equal(maps, database.read("signal", chosen))
        np.testing.assert_array_equal(targets[:, 0], chosen + np.float32(0.5))


def test_no_map_twice_in_an_epoch_and_every_epoch_differs(database):
    indices = np.arange(1, COUNT)
    pipeline = pipeline_of(database, indices=indices, batch_size=7)
    chosen = [maps[:, 0, 0].astype(int) for maps, _ in batches_of(pipeline.training(0, 9))]
    epochs = [np.concatenate(chosen[start : start + 3]).tolist() for start in (0, 3, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 21
        assert set(epoch) <= set(indices.tolist())
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # The maps left out of an epoch differ too, so that all are used.
    assert set(sum(epochs, [])) == set(indices.tolist())  # noqa: RUF017


@pytest.mark.parametrize("augment", [None, augment_squares])
def test_resumed_steps_equal_uninterrupted_ones(path, database, augment):
    whole = batches_of(pipeline_of(database, augment=augment).training(0, 13))
    for start in (1, 5, 12, 13):
        resumed = batches_of(pipeline_of(Database(path), augment=augment).training(start, 13))
        assert len(resumed) == 13 - start
        for (maps, targets), (expected, expected_targets) in zip(resumed, whole[start:], strict=True):
            np.testing.assert_array_equal(maps, expected)
            np.testing.assert_array_equal(targets, expected_targets)


def test_seed_changes_order_and_augmentation(database):
    first, second = (pipeline_of(database, seed=seed, indices=range(4), augment=augment_squares) for seed in (1, 2))
    assert not np.array_equal(first.load(0)[0], second.load(0)[0])
    assert not np.array_equal(first.load(0)[0], first.load(1)[0])


def test_inputs_and_target_maps_are_augmented_alike(database):
    pipeline = pipeline_of(database, "signal", "density", augment=augment_squares)
    changed = 0
    for step, (maps, targets) in enumerate(batches_of(pipeline.training(0, 5))):
        np.testing.assert_array_equal(targets, -maps)
        changed += not np.array_equal(maps, database.read("signal", pipeline.step_indices(step)))
    assert changed


def test_several_fields_become_channels(database):
    pipeline = pipeline_of(database, ("density", "signal"), ("signal",))
    (maps, targets), *_ = batches_of(pipeline.training(0, 1))
    assert (maps.shape, targets.shape) == ((4, 6, 6, 2), (4, 6, 6, 1))
    np.testing.assert_array_equal(maps[..., 1:], targets)
    np.testing.assert_array_equal(maps[..., 0], -maps[..., 1])


@pytest.mark.parametrize(
    ("batch_size", "sizes", "static"), [(None, [4, 4, 4], 4), (5, [5, 5, 2], None), (50, [12], None)]
)
def test_evaluation_in_order_with_the_ragged_batch(database, batch_size, sizes, static):
    indices = np.arange(COUNT)[::-1][:12]
    pipeline = pipeline_of(database, indices=indices, augment=augment_squares)
    dataset = pipeline.evaluation(batch_size)
    assert dataset.element_spec[0].shape.as_list() == [static, 6, 6]
    batches = batches_of(dataset)
    assert [len(maps) for maps, _ in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([maps for maps, _ in batches]), database.read("signal", indices))
    np.testing.assert_array_equal(np.concatenate([targets for _, targets in batches]), database.targets(indices))


def test_too_large_a_batch_is_reduced(database, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline = pipeline_of(database, batch_size=100)
    assert "batch_size 100 is reduced to 23" in caplog.text
    assert (pipeline.batch_size, pipeline.steps_per_epoch) == (23, 1)


def test_under_op_determinism_and_a_strategy(database):
    # Determinism is a switch of the whole process, so it has one of its own.
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "tf.config.experimental.enable_op_determinism(); tf.random.set_seed(0)\n"
        "from keras_cosmo.data.database import Database\n"
        "from keras_cosmo.data.pipeline import MapPipeline\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],\n"
        "    [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "pipeline = MapPipeline(Database(sys.argv[1]), 'signal', None, range(23), 4, 1)\n"
        "plain = [x.numpy() for x, _ in pipeline.training(0, 6)]\n"
        "assert all(np.array_equal(x, pipeline.load(k)[0]) for k, x in enumerate(plain)) and len(plain) == 6\n"
        "strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
        "parts = [np.concatenate([p.numpy() for p in strategy.experimental_local_results(x)])\n"
        "    for x, _ in strategy.experimental_distribute_dataset(pipeline.training(0, 6))]\n"
        "assert all(np.array_equal(a, b) for a, b in zip(parts, plain, strict=True))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(database.path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_bad_pixels_never_reach_training(path, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(path.read_bytes())
    with h5py.File(bad, "r+") as file:
        file["maps/signal"][7, 3, 3] = np.nan
    pipeline = pipeline_of(Database(bad))
    with pytest.raises(Exception, match="map 7 of simulation 7 has 1 pixels that are not finite"):
        batches_of(pipeline.training(0, 5))
    with pytest.raises(ValueError, match="map 7 of simulation 7 has 1 pixels that are not finite"):
        [pipeline.load(step) for step in range(50)]


def test_augmentation_of_another_shape(database):
    pipeline = pipeline_of(database, augment=lambda maps, generator: maps[:, 1:])
    with pytest.raises(ValueError, match=r"augment: expected maps of shape \(4, 6, 6\) back, got \(4, 5, 6\)"):
        pipeline.load(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": "signl"}, r"inputs: expected fields of .* got 'signl'"),
        ({"inputs": "parameters"}, "inputs: expected fields of"),
        ({"targets": ("signal", "mass")}, r"targets: expected fields of .* got \('signal', 'mass'\)"),
        ({"inputs": ("signal", "wide")}, "inputs: expected fields of one shape to stack as channels"),
        ({"indices": []}, "indices: expected at least one map number"),
        ({"indices": [0, 23]}, "has maps 0 to 22, got 0 to 23"),
        ({"indices": [1, 1]}, "indices: expected every map once"),
        ({"batch_size": 0}, "batch_size: expected a positive integer, got 0"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ],
)
def test_arguments(database, changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of(database, **changes)


def test_steps_and_batch_size_of_methods(database):
    with pytest.raises(ValueError, match="expected 0 <= start_step <= total_steps, got 5, 4"):
        pipeline_of(database).training(5, 4)
    with pytest.raises(ValueError, match="batch_size: expected a positive integer, got 0"):
        pipeline_of(database).evaluation(0)


def test_symmetries_turn_inputs_and_targets_alike(database):
    indices, symmetries = np.divmod(np.arange(8 * COUNT), 8)
    pipeline = pipeline_of(database, targets="density", indices=indices, symmetries=symmetries)
    assert pipeline.steps_per_epoch == 8 * COUNT // 4
    seen = set()
    for maps, targets in batches_of(pipeline.training(0, pipeline.steps_per_epoch)):
        np.testing.assert_array_equal(maps, -targets)
        seen |= {one.tobytes() for one in maps}
    expected = {
        np.ascontiguousarray(square_symmetry(one, element)).tobytes()
        for one in database.read("signal", np.arange(COUNT))
        for element in range(8)
    }
    assert seen == expected
    maps = np.concatenate([maps for maps, _ in batches_of(pipeline.evaluation(5))])
    np.testing.assert_array_equal(maps[13], square_symmetry(database.read("signal", [1])[0], 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetries": [0, 1]}, r"one integer per entry of indices, shape \(23,\), got int64 of shape \(2,\)"),
        ({"symmetries": np.full(COUNT, 8)}, "symmetries: expected 0 to 7, got 8 to 8"),
        ({"symmetries": [3, 3], "indices": [1, 1]}, "every map in every symmetry once at most"),
        ({"symmetries": np.zeros(COUNT, int), "inputs": "wide"}, "expected square maps, got inputs of shape"),
    ],
)
def test_symmetries_are_checked(database, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of(database, **options)


@pytest.mark.parametrize("targets", [None, "density"])
def test_workers_make_the_rows_of_one_batch(database, targets):
    pipeline = pipeline_of(database, targets=targets, batch_size=6, augment=augment_squares)
    read = []
    database.read = lambda *args, read=read, original=database.read, **options: (
        read.append(len(args[1])) or original(*args, **options)
    )
    parts = [batches_of(pipeline.training(1, 4, part, 3)) for part in range(3)]
    assert set(read) == {2}, "a worker read the maps of others"
    for step in range(1, 4):
        for kind, whole in enumerate(pipeline.load(step)):
            np.testing.assert_array_equal(np.concatenate([part[step - 1][kind] for part in parts]), whole)


@pytest.mark.parametrize("size", [3, 4, COUNT])
def test_workers_are_dealt_the_batches_of_an_evaluation(database, size):
    pipeline = pipeline_of(database)
    whole = batches_of(pipeline.evaluation(size))
    for parts in (2, 3):
        dealt = [batches_of(pipeline.evaluation(size, part, parts)) for part in range(parts)]
        assert sum(map(len, dealt)) == len(whole)
        for part, batches in enumerate(dealt):
            for mine, expected in zip(batches, whole[part::parts], strict=True):
                for one, other in zip(mine, expected, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_workers_that_cannot_share_a_batch(database):
    pipeline = pipeline_of(database, batch_size=4)
    with pytest.raises(ValueError, match="batch_size: 4 maps per step cannot be divided among 3 workers"):
        pipeline.training(0, 2, 0, 3)
    for make in (lambda: pipeline.training(0, 2, 2, 2), lambda: pipeline.evaluation(4, -1, 2)):
        with pytest.raises(ValueError, match="part, parts: expected 0 <= part < parts"):
            make()
