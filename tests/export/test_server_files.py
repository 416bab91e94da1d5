import pytest

from keras_cosmo.export.server_files import Batching, served_names, write_server_files


@pytest.fixture
def models(tmp_path):
    for name in ("dust/1", "dust/2", "matter/3", "empty/1", ".hidden/1", "notes/first"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("dust/1", "dust/2", "matter/3", ".hidden/1", "notes/first"):
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    return tmp_path


def test_models_config_is_what_the_server_reads(models):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    (path, *_) = write_server_files(models, keep=2)
    entries = text_format.Parse(path.read_text(), config.ModelServerConfig()).model_config_list.config
    assert [(each.name, each.base_path) for each in entries] == [
        ("dust", str(models / "dust")),
        ("matter", str(models / "matter")),
    ]
    assert {each.model_version_policy.latest.num_versions for each in entries} == {2}
    assert {each.model_platform for each in entries} == {"tensorflow"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [("/models", "/models/dust"), ("/models/", "/models/dust"), ("gs://bucket/a", "gs://bucket/a/dust")],
)
def test_where_the_server_finds_the_models(given, expected, models):
    text = write_server_files(models, given)[0].read_text()
    assert f'base_path: "{expected}"' in text


def test_a_path_with_quotes_is_escaped(tmp_path):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    folder = tmp_path / 'a "b" \\c'
    (folder / "dust" / "1").mkdir(parents=True)
    (folder / "dust" / "1" / "saved_model.pb").write_bytes(b"")
    text = write_server_files(folder)[0].read_text()
    (entry,) = text_format.Parse(text, config.ModelServerConfig()).model_config_list.config
    assert entry.base_path == str(folder / "dust")


def message(name, fields):
    """Class of a message that is defined here as in the .proto file of the server, which no package holds."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    entry = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        options = {"type": kind} if isinstance(kind, int) else {"type": 11, "type_name": kind}
        entry.field.add(name=field, number=number, label=1, **options)
    if name == "MonitoringConfig":
        nested = file.message_type.add(name="PrometheusConfig")
        nested.field.add(name="enable", number=1, label=1, type=8)
        nested.field.add(name="path", number=2, label=1, type=9)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def test_batching_and_monitoring_are_what_the_server_reads(models):
    text_format = pytest.importorskip("google.protobuf.text_format")
    _, batching, monitoring = write_server_files(models, batching=Batching(max_batch_size=7, batch_timeout_micros=0))
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    kind = message("BatchingParameters", dict.fromkeys(names, ".google.protobuf.Int64Value"))
    parameters = text_format.Parse(batching.read_text(), kind())
    assert [getattr(parameters, name).value for name in names] == [7, 0, 100, 2]
    kind = message("MonitoringConfig", {"prometheus_config": ".PrometheusConfig"})
    config = text_format.Parse(monitoring.read_text(), kind()).prometheus_config
    assert (config.enable, config.path) == (True, "/monitoring/prometheus/metrics")


def test_written_anew_as_a_whole(models):
    write_server_files(models, "/models")
    for path in (models / "matter" / "3").iterdir():
        path.unlink()
    first = write_server_files(models, "/models")[0]
    assert "matter" not in first.read_text()
    assert not list(models.glob("*.partial*"))


def test_errors(models, tmp_path):
    with pytest.raises(ValueError, match=r"`keep`: expected an integer of at least 1, got 0"):
        write_server_files(models, keep=0)
    with pytest.raises(ValueError, match=r"`base_path`: expected an absolute path .*got 'models'\. In the official"):
        write_server_files(models, "models")
    with pytest.raises(FileNotFoundError, match=r"elsewhere: no such folder\. Give the one that a training run writes"):
        served_names(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"empty: no model in it, expected <name>/<version>/saved_model\.pb"):
        served_names(models / "empty")
    (models / "dust").rename(models / "my dust")
    with pytest.raises(ValueError, match=r"my dust: this name cannot be part of an address: .*Rename the folder"):
        served_names(models)
    assert not (models / "models.config").exists()


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("max_batch_size", 0, 1), ("batch_timeout_micros", -1, 0), ("num_batch_threads", 1.5, 1)],
)
def test_batching_numbers(name, value, least):
    with pytest.raises(ValueError, match=f"`{name}`: expected an integer of at least {least}, got {value}"):
        Batching(**{name: value})
