"""Every wrong value ends in one sentence with the value, the rule and the cure."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from pdray.config import build_config, fingerprinted, load_config
from pdray.errors import UserError
from pdray.paths import holds_secret, is_closed


def test_defaults_are_the_papers(settings):
    config = build_config(settings)
    assert (config.selection.budget, config.selection.strategy, config.alignment.num_workers) == (0.3, "pd", 2)


def test_alignment_may_be_left_out(settings):
    del settings["alignment"]
    assert build_config(settings).alignment is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.budget=0", ["selection.budget is 0", "greater than 0", "change it"]),
        ("selection.budget=1.01", ["selection.budget is 1.01", "less than or equal to 1"]),
        ("selection.budget=many", ["selection.budget is 'many'", "number"]),
        ("selection.budgte=0.1", ["selection.budgte is not a setting", "did you mean budget?"]),
        ("selektion.budget=0.1", ["selektion is not a setting", "did you mean selection?"]),
        ("corpus.aspects=[helpful]", ["corpus.aspects", "at least two"]),
        ("corpus.aspects=[a, a, b]", ["corpus.aspects", "twice"]),
        ("corpus.path=no/such/file.parquet", ["corpus.path matches no file", "correct the path"]),
        ("corpus.hub=org/name", ["corpus", "exactly one of path", "hub"]),
        ("corpus.kind=triples", ["corpus.kind is 'triples'", "'pairs' or 'rated'"]),
        ("proxies.base_model=nowhere", ["proxies.base_model", "config.json", "model folder"]),
        ("proxies.models={a: x}", ["proxies", "exactly one of base_model"]),
        ("alignment.num_workers=0", ["alignment.num_workers is 0", "greater than or equal to 1"]),
        (
            "alignment.num_workers=3",
            ["pairs_per_step 16 is no multiple of num_workers 3 × batch_size 1", "set it to 18"],
        ),
        (
            "alignment.gradient_accumulation=8",
            ["gradient_accumulation is not a setting any more", "set pairs_per_step"],
        ),
        ("alignment.min_workers=3", ["min_workers 3 is more than num_workers 2", "lower it"]),
        ("alignment.report_to=[tensorbored]", ["alignment.report_to", "'tensorbored'", "'tensorboard', 'wandb'"]),
        ("alignment.lora={rank: 8}", ["alignment.lora.rank is not a setting", "known keys: r, alpha"]),
        ("alignment.zero_stage=4", ["alignment.zero_stage is 4", "0, 1, 2 or 3"]),
        ("alignment.deepspeed={zero_optimization: {stage: 3}}", ["zero_stage is 2", "set zero_stage alone"]),
        (
            "alignment.deepspeed={zero_optimization: {offload_param: {device: cpu}}}",
            ["offload_param needs zero_stage 3"],
        ),
        ("alignment={}", ["alignment.policy is missing", "set it"]),
        ("alignment.gpus_per_worker=0.5", ["alignment.gpus_per_worker: 0.5 is neither 0 nor 1", "set it to 1"]),
        ("alignment.prompt_tokens=512", ["prompt_tokens 512 fills max_tokens 512", "lower it"]),
        ("run=s3://bucket/run", ["run is s3://bucket/run", "every node mounts", "leave the alignment section out"]),
        ("run=file:///tmp/run", ["run is file:///tmp/run", "leave file:// out"]),
        ("scores.dtype=.nan", ["scores.dtype is nan"]),
        ("selection.gamma=.nan", ["selection.gamma is nan"]),
        (
            "scores.gpus_per_actor=1.5",
            ["scores.gpus_per_actor", "1.5 is above 1 and no whole number", "set it to 1 or 2"],
        ),
        ("scores.engine_args={tensor_parallel_size: 2}", ["engine_args.tensor_parallel_size", "scores.gpus_per_actor"]),
        ("scores={engine: transformers, engine_args: {seed: 1}}", ["settings of vllm", "remove them"]),
        ("scores={engine: transformers, gpus_per_actor: 2}", ["only vllm splits a model", "set it to 1"]),
        ("proxies={models: {path: x, labels: {a: 0}}}", ["a model for at least two"]),
        ("proxies={models: {path: x, labels: {a: 0, b: 0}}}", ["proxies.models.labels", "the same label"]),
        ("proxies={models: {path: x, labels: {a: 0, b: -1}}}", ["proxies.models.labels.b is -1"]),
        ("proxies={models: {path: nowhere, labels: {a: 0, b: 1}}}", ["proxies.models.path is", "no config.json"]),
        ("proxies.base_model=hf://org/model", ["proxies.base_model is hf://org/model", "on a hub", "download it"]),
        (
            "proxies={base_model: x, train: head, report_to: [mlflow]}",
            ["but heads take no steps", "set train to all"],
        ),
        ("proxies={base_model: x, train: head, lora: {r: 8}}", ["lora is set, but heads", "set train to all"]),
        ("proxies={models: {path: x}}", ["a model for at least two"]),
    ],
)
def test_a_wrong_value_is_named_with_its_cure(settings, override, words):
    with pytest.raises(UserError) as caught:
        build_config(settings, [override])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == 2


def test_models_may_be_on_object_storage(settings):
    """What lies there is looked at before the first stage, not when the file is read."""
    uris = [f"s3://bucket/{name}?region=eu-1" for name in ("base", "policy")]
    config = build_config(settings, [f"proxies.base_model={uris[0]}", f"alignment.policy={uris[1]}"])
    assert config.alignment is not None
    assert [config.proxies.base_model, config.alignment.policy] == uris


def test_zero_3_needs_its_weights_gathered(settings):
    with pytest.raises(UserError, match="stage3_gather_16bit_weights_on_model_save"):
        build_config(
            settings,
            [
                "alignment.zero_stage=3",
                "alignment.deepspeed={zero_optimization: {stage3_gather_16bit_weights_on_model_save: false}}",
            ],
        )


def test_offload_of_the_optimizer_needs_a_zero_stage(settings):
    offload = "alignment.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}"
    with pytest.raises(UserError, match="offload_optimizer needs zero_stage 1, 2 or 3"):
        build_config(settings, [offload, "alignment.zero_stage=0"])
    assert build_config(settings, [offload]).alignment.zero_stage == 2


def test_a_label_that_counts_nothing_has_no_dfpo(settings):
    weights = "selection.weights={honest: 0, helpful: 2}"
    with pytest.raises(UserError, match=r"dfpo but selection\.weights gives 0 to honest, .*set a weight above 0"):
        build_config(settings, [weights, "alignment.loss=dfpo"])
    assert build_config(settings, [weights]).alignment.loss == "dpo"
    assert build_config(settings, ["selection.weights={honest: 0.5}", "alignment.loss=dfpo"]).alignment.loss == "dfpo"


@pytest.mark.parametrize("override", ["selection.budget", "=0.1", "run.folder=x"])
def test_a_malformed_override_is_refused(settings, override):
    with pytest.raises(UserError, match="--set"):
        build_config(settings, [override])


def test_every_mistake_is_reported_at_once(settings):
    with pytest.raises(UserError) as caught:
        build_config(settings, ["selection.budget=7", "scores.engine=onnx"])
    assert len(str(caught.value).splitlines()) == 2


def test_relative_paths_do_not_depend_on_where_the_job_runs(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = build_config(settings, ["run=here", "alignment.policy=policy", "corpus.path=pairs.parquet"])
    assert config.run == str(tmp_path / "here")
    assert config.alignment.policy == str(tmp_path / "policy")
    assert config.corpus.patterns == [str(tmp_path / "pairs.parquet")]


def test_a_resolved_config_validates_to_itself(settings):
    config = build_config(settings)
    assert build_config(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("text", "words"), [(None, "pdray init"), ("a: [", "YAML"), ("", "holds no settings"), ("[1]", "holds no settings")]
)
def test_an_unreadable_file_is_refused(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(path)


def test_numbers_that_yaml_reads_as_text_are_numbers(settings, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert load_config(path, ["alignment.learning_rate=1e-6"]).alignment.learning_rate == 1e-6


def test_the_dtype_that_auto_stands_for_decides_the_scores_whatever_the_cluster(settings):
    from pdray.scoring.stage import STAGE

    def dtype(*overrides):
        return STAGE.settings(build_config(settings, list(overrides)))["dtype"]

    assert dtype() == "float32"
    assert dtype("scores.gpus_per_actor=0.5") == "bfloat16"
    assert dtype("scores.gpus_per_actor=1", "scores.dtype=float16") == "float16"


def test_one_ready_model_may_score_all_aspects(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    proxies = build_config(settings, ["proxies={models: {path: model, labels: {b: 0, a: 3}}}"]).proxies
    assert proxies.model_aspects == ["a", "b"]
    assert proxies.folders == {"proxies.models.path": str(tmp_path / "model")}


def test_how_is_not_fingerprinted_but_what_is(settings):
    first = fingerprinted(build_config(settings).scores)
    how = ["scores.step_timeout=7", "scores.num_actors=3", "scores.parity_rank=0.5", "scores.max_failed=0"]
    assert fingerprinted(build_config(settings, how).scores) == first
    assert fingerprinted(build_config(settings, ["scores.engine_args={enforce_eager: true}"]).scores) != first
    assert fingerprinted(build_config(settings, ["scores.max_tokens=77"]).scores) != first


@pytest.mark.parametrize(
    "corpus",
    [
        {"path": "s3://KEY:SECRET@bucket/x.parquet"},
        {"path": "s3://KEY:SEC/RET@bucket/x.parquet"},
        {"path": "s3://bucket/x?Secret_Key=SECRET"},
        {"path": "https://SECRET@host/x.jsonl"},
        {"path": ["s3://KEY:SECRET@bucket/x.parquet", 5]},
        "s3://KEY:SECRET@bucket/x.parquet",
    ],
)
def test_a_secret_in_a_path_is_refused_and_not_repeated(corpus):
    with pytest.raises(UserError, match=r"^corpus.* holds a key or password.*take it out") as refusal:
        build_config({"corpus": corpus, "proxies": {"base_model": "m"}})
    assert "SEC" not in str(refusal.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x?X-Amz-Signature=SECRET",
        "https://host/x.parquet?a=1&x-amz-credential=SECRET&b=2",
        "https://host/x.parquet?X-Amz-Security-Token=SECRET",
        "https://host/x.parquet?X%2DAmz%2DSignature=SECRET",
        "https://storage/x?X-Goog-Signature=SECRET",
        "https://account.blob/x?sv=2024&sig=SECRET",
        "https://host/x?TOKEN=SECRET",
        "https://host/x?access_token=SECRET",
        "https://host/x#access_token=SECRET",
        "https://host/x?api_key=SECRET",
        "https://host/x?apikey=SECRET",
        "https://host/x?api-key=SECRET",
        "https://host/x?key=SECRET",
        "https://bucket/x?AWSAccessKeyId=SECRET&Signature=SECRET",
        "https://bucket/x?Expires=1&Signature=SECRET",
        "abfs://container@account/x?client_secret=SECRET",
        "s3://bucket/x?endpoint_override=http://user:SECRET@host",
        "s3://bucket/x?scheme=http&endpoint_override=http%3A%2F%2Fuser%3ASECRET%40host",
        "s3://bucket/x?endpoint_override=http%253A%252F%252Fuser%253ASECRET%2540host",
        "simplecache::s3://KEY:SECRET@bucket/x",
        "s3://KEY%3ASECRET@bucket/x",
        "s3://:SECRET@bucket/x",
        "ray://user:SECRET@head:10001",
    ],
)
def test_a_uri_with_a_secret_is_recognised(uri):
    assert holds_secret(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://container@account/x",
        "gs://anonymous@bucket/x",
        "hdfs://head:8020/a@b",
        "s3://bucket/x?endpoint_override=http://127.0.0.1:8333&scheme=http&region=eu-1",
        "s3://bucket/x?endpoint_override=127.0.0.1:8333&allow_bucket_creation=false",
        "s3://bucket/x?endpoint_override=http%3A%2F%2F127.0.0.1%3A8333&user=a@b",
        "s3://bucket/token=1/key=2/*.parquet",
        "s3://bucket/x?partition_key=1&credential_kind=anonymous",
        "file:///data/a:b@c/token=1/x.parquet",
        "ray://head:10001",
        "data/token=1/x.parquet",
        "data/x?key=*.parquet",
        "org/name",
        "auto",
    ],
)
def test_what_only_looks_like_a_secret_is_accepted(uri):
    assert not holds_secret(uri)


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "corpus.path",
        "corpus.hub",
        "cluster.address",
        "proxies.base_model",
        "proxies.models.a",
        "alignment.policy",
        "alignment.deepspeed.nvme_path",
        "selection.budget",
        "selection.bugdet",
    ],
)
def test_every_setting_refuses_a_secret_without_repeating_it(settings, name):
    with pytest.raises(UserError, match=rf"(?m)^{name} holds a key or password.*take it out") as refusal:
        build_config(settings, [f"{name}=s3://KEY:SECRET@bucket/x"])
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize(
    "override",
    [
        "s3://KEY:SECRET@bucket",
        "s3://KEY:SECRET@bucket/x?region=1",
        "run='s3://KEY:SECRET@bucket",
        "run.path=s3://KEY:SECRET@bucket",
    ],
)
def test_a_malformed_override_does_not_repeat_a_secret(settings, override):
    with pytest.raises(UserError, match="--set a value with a secret in it") as refusal:
        build_config(settings, [override])
    assert "SECRET" not in str(refusal.value)


def test_a_malformed_file_does_not_repeat_a_secret(tmp_path):
    (tmp_path / "run.yaml").write_text("corpus: {path: 's3://KEY:SECRET@bucket\n")
    with pytest.raises(UserError, match=r"run\.yaml is not readable YAML") as refusal:
        load_config(tmp_path / "run.yaml")
    assert "SECRET" not in str(refusal.value)


def test_partition_columns_need_files(settings):
    with pytest.raises(UserError, match=r"partition_columns .*corpus\.path"):
        build_config(settings, ["corpus.path=null", "corpus.hub=org/name", "corpus.partition_columns=[aspect]"])


def test_a_key_twice_and_endless_references_are_refused(tmp_path):
    path = tmp_path / "run.yaml"
    for text, words in [
        ("run: a\nrun: b\n", "'run' stands there twice"),
        ("a: &a [*a]\n", "references"),
        ("a: " + "[" * 3000, "YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load_config(path)


def test_aspects_that_look_the_same_are_refused(settings):
    for other in ("caf\u0065\u0301", "caf\u00e9 "):
        with pytest.raises(UserError, match="differ by spaces or Unicode form alone"):
            build_config(settings | {"corpus": settings["corpus"] | {"aspects": ["caf\u00e9", other, "x"]}})


def test_everything_that_is_wrong_is_said_at_once():
    wrong = {
        "corpus": {"path": "/nowhere/*.x"},
        "proxies": {"base_model": "/none"},
        "alignment": {"policy": "/x", "b": 1},
    }
    with pytest.raises(UserError) as refused:
        build_config(wrong)
    assert len(str(refused.value).splitlines()) == 4
    with pytest.raises(UserError, match="at least 1 character"):
        build_config(wrong | {"proxies": {"base_model": ""}})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('corpus.hub_config="\\ud800"', "corpus.hub_config is .* half a character; write another text"),
        ('run="a\\0b"', "run is .* holds NUL"),
        ("scores.engine_args={a: .nan}", "scores.engine_args.a is nan, but has to be a finite number"),
        ("scores.engine_args={a: 2001-01-01}", "scores.engine_args.a is a date of YAML; put quotes around it"),
        ("scores.engine_args={a: !!binary gID/}", "scores.engine_args.a is a bytes of YAML"),
        (f"scores.engine_args={{a: 0x{'f' * 5000}}}", "scores.engine_args.a is a number of more than 64 bits"),
        (f"scores.engine_args={'[' * 60}{']' * 60}", "is not a YAML value"),
        (f"{'a.' * 2000}b=1", "goes deeper than 50 sections"),
        ("str=1", "str is not a setting"),
        ("=1", "has no value"),
        (
            "alignment.deepspeed={zero_optimization: {offload_optimizer: cpu}}",
            "offload_optimizer is 'cpu' but must be a",
        ),
        (f"alignment.policy={'a' * 5000}", "which holds no config.json"),
    ],
)
def test_values_that_no_run_folder_keeps_are_named(settings, override, words):
    with pytest.raises(UserError, match=words):
        build_config(settings, [override])


@pytest.mark.parametrize("name", ["/proc/self/mem", "x" * 5000])
def test_a_config_file_that_cannot_be_read_is_named(name):
    with pytest.raises(UserError, match=r"cannot be read .*name another file|no config file at"):
        load_config(name)


def test_rules_between_settings_are_told_beside_settings_that_are_wrong(settings):
    wrong = [
        "alignment.beta=x",
        "alignment.deepspeed={zero_optimization: {offload_param: {device: cpu}}}",
        "=1",
        "seed=-1",
    ]
    with pytest.raises(UserError) as caught:
        build_config(settings, [*wrong, "corpus.path=s3://KEY:SECRET@b/x", "proxies.base_model=nowhere"])
    told = caught.value.sentences
    assert len(told) == 6
    assert any("offload_param needs zero_stage 3" in sentence for sentence in told)
    assert not any("exactly one of path" in sentence or "SECRET" in sentence for sentence in told)


@pytest.mark.parametrize("value", [1, float("nan")])
def test_of_very_many_mistakes_the_first_are_told(settings, value):
    settings["selection"] = {f"setting{number}": value for number in range(20_000)}
    with pytest.raises(UserError) as caught:
        build_config(settings, ["seed=-1", "alignment.deepspeed={zero_optimization: {offload_param: {device: cpu}}}"])
    *told, last = caught.value.sentences
    assert len(told) == 100 and all("selection.setting" in one or "seed" in one for one in told)
    assert last == "the configuration has more that is wrong; mend this first"


@pytest.mark.parametrize("section", ["proxies", "alignment"])
@pytest.mark.parametrize("epochs", ["1e308", "1001"])
def test_passes_without_end_are_refused(settings, section, epochs):
    with pytest.raises(UserError, match=rf"^{section}.epochs is .* but should be less than or equal to 1000; change"):
        build_config(settings, [f"{section}.epochs={epochs}"])
    assert getattr(build_config(settings, [f"{section}.epochs=1000"]), section).epochs == 1000


def test_folders_that_are_closed_to_this_user_are_told_as_such(settings, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    settings["corpus"]["path"] = str(tmp_path / "data")
    monkeypatch.setattr(os, "access", lambda path, *rest, **options: False)  # root may look into everything
    with pytest.raises(UserError) as caught:
        build_config(settings)
    assert caught.value.sentences == [
        f"{name} is {tmp_path}/{folder}, which is closed to this user; open it, or name another"
        for name, folder in (("corpus.path", "data"), ("proxies.base_model", "base"), ("alignment.policy", "policy"))
    ]


def test_a_place_below_a_folder_that_is_closed_is_closed(tmp_path, monkeypatch):
    assert not is_closed(str(tmp_path)) and not is_closed(str(tmp_path / "none"))

    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", closed)
    assert is_closed(str(tmp_path / "none"))
