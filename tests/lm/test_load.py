"""Models by name: directories, adapters, and everything that is not one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import CHATML, save_tiny, tiny_model

from rlrp.errors import UserError
from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.load import load_model, load_tokenizer, resolve_model

IDS = torch.tensor([[5, 99, 200, 7, 31]])


@pytest.fixture(scope="module")
def adapter_folder(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as PEFT saves it, without a tokenizer, that changes what its base computes."""
    folder = tmp_path_factory.mktemp("adapter")
    lm = load_model(tiny_folder)
    model = add_lora(lm.model, LoraSettings(r=2, alpha=4), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def test_a_directory_loads_as_it_was_saved(tiny_folder: str) -> None:
    lm = load_model(tiny_folder)
    with torch.no_grad():
        expected = tiny_model(shared=False)(input_ids=IDS).logits
        torch.testing.assert_close(lm.model(input_ids=IDS).logits, expected, atol=1e-4, rtol=0)
    assert lm.tokenizer.chat_template == CHATML
    assert lm.context == 512
    assert not lm.model.training


def test_an_adapter_directory_is_its_base_with_the_adapter_merged(tiny_folder: str, adapter_folder: Path) -> None:
    from peft import PeftModel

    expected = PeftModel.from_pretrained(load_model(tiny_folder).model, adapter_folder)
    lm = load_model(str(adapter_folder))  # the tokenizer is the base's
    assert lm.chat.turn_end_id == load_model(tiny_folder).chat.turn_end_id
    with torch.no_grad():
        torch.testing.assert_close(lm.model(input_ids=IDS).logits, expected(input_ids=IDS).logits, atol=1e-4, rtol=0)
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def test_a_template_can_be_named(tiny_folder: str) -> None:
    assert "start_of_turn" in load_tokenizer(tiny_folder, chat_template="gemma-roleplay").chat_template


@pytest.mark.parametrize("spec", ["./nonesuch", "/no/such/folder", "~/models/x", "a/b/c", "runs/x/../y", "", "a b"])
def test_what_is_neither_a_directory_nor_a_hub_id(spec: str) -> None:
    with pytest.raises(UserError, match="no such directory"):
        resolve_model(spec)


def test_a_hub_id_stays_as_it_is() -> None:
    assert resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def one_line(spec: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_directories_are_the_users_error(tmp_path: Path, adapter_folder: Path) -> None:
    assert "tokenizer" in one_line(tmp_path)  # an empty folder
    folder = Path(save_tiny(tmp_path / "cut"))
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    assert "cannot load" in one_line(folder)
    (folder / "model.safetensors").unlink()
    assert "cannot load" in one_line(folder)

    broken = tmp_path / "adapter"
    shutil.copytree(adapter_folder, broken)
    with (broken / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(100)
    assert "cannot load the adapter" in one_line(broken)
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    assert "must be safetensors" in one_line(broken)  # a pickle is never opened
    config = json.loads((broken / "adapter_config.json").read_text(encoding="utf-8"))
    (broken / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    assert "names no base model" in one_line(broken)
    (broken / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    assert "no such directory: /gone" in one_line(broken)
