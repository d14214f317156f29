"""The SFT loss on a CPU against TRL's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.load import load_model
from rlrp.stages.sft_trainer import CpuSFTTrainer

BATCH = {
    "input_ids": torch.tensor([[1, 9, 200, 31, 77, 5, 8], [4, 250, 17, 3, 99, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]),
    "labels": torch.tensor([[-100, -100, 200, 31, -100, -100, 8], [-100, -100, -100, 3, 99, -100, -100]]),
}


def loss_and_gradients(make: Any, folder: str, out: Path, items: int | None) -> tuple[float, dict[str, torch.Tensor]]:
    lm = load_model(folder)
    model = add_lora(lm.model, LoraSettings(r=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    settings = SFTConfig(output_dir=str(out), report_to="none", bf16=False, use_cpu=True)
    rows = Dataset.from_list([{"input_ids": [1, 2], "labels": [-100, 2]}])
    trainer = make(model, args=settings, train_dataset=rows, processing_class=lm.tokenizer)
    loss = trainer.compute_loss(trainer.model, dict(BATCH), num_items_in_batch=items)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("items", [None, 12])
def test_it_is_trls_loss_with_its_gradients(tiny_folder: str, tmp_path: Path, items: int | None) -> None:
    expected, wanted = loss_and_gradients(SFTTrainer, tiny_folder, tmp_path, items)
    loss, gradients = loss_and_gradients(CpuSFTTrainer, tiny_folder, tmp_path, items)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == wanted.keys() and any(g.abs().max() > 1e-4 for g in wanted.values())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6, rtol=1e-4), name


def test_a_batch_without_a_reply_moves_nothing(tiny_folder: str, tmp_path: Path) -> None:
    silent = dict(BATCH, labels=torch.full_like(BATCH["labels"], -100))
    lm = load_model(tiny_folder)
    settings = SFTConfig(output_dir=str(tmp_path), report_to="none", bf16=False, use_cpu=True)
    rows = Dataset.from_list([{"input_ids": [1, 2], "labels": [-100, 2]}])
    model = add_lora(lm.model, LoraSettings(r=4, alpha=8), seed=0)
    trainer = CpuSFTTrainer(model, args=settings, train_dataset=rows, processing_class=lm.tokenizer)
    loss = trainer.compute_loss(trainer.model, silent)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())
