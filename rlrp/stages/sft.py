"""Supervised fine-tuning: the card as system prompt, loss on the character's turns only, a share of general data.

TRL's SFTTrainer does the training; token ids come from the same place as everywhere else (``rlrp.lm.chat``), so the
policy later sees in RL exactly the tokens it was tuned on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrp.config import Config, SftConfig
from rlrp.dialogue import Dialogue, Message, Pool, mix, plan_mixture, read_dialogues, resolve
from rlrp.errors import UserError
from rlrp.files import atomic_folder, write_json
from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.chat import ChatFormat, Encoded
from rlrp.lm.load import LanguageModel, load_model
from rlrp.lm.prompts import role_play_messages


@dataclass(frozen=True)
class SftData:
    """The mixture as tokens, and a sentence about it."""

    examples: tuple[Encoded, ...]
    summary: str


def sft_data(config: Config, pool: Pool, chat: ChatFormat) -> SftData:
    """Encode the training dialogues and mix in general data.

    Raises:
        UserError: no dialogues, no general data where a share of it is asked, a share above one half.
    """
    assert config.sft is not None
    general = read_dialogues(resolve(config.data.general)) if config.data.general else []
    if not pool.train_dialogues:
        raise UserError("no dialogues of training cards", file=config.data.dialogues, place="data.dialogues")
    if config.sft.general_share > 0 and not general:
        raise UserError("sft.general_share asks for general data and there is none; set data.general", place="data")
    share = config.sft.general_share if general else 0.0
    plan = plan_mixture(len(pool.train_dialogues), len(general), share)
    mixture = mix(list(pool.train_dialogues), general, share, config.seed)
    encoded = [encode_example(dialogue, chat, config.sft.max_tokens) for dialogue in mixture]
    kept = tuple(example for example in encoded if example is not None)
    if not kept:
        raise UserError(f"no dialogue fits into {config.sft.max_tokens} tokens", place="sft.max_tokens")
    dropped = len(encoded) - len(kept)
    note = f"; {dropped} too long for {config.sft.max_tokens} tokens even with one reply" if dropped else ""
    return SftData(kept, f"{plan}{note}")


def encode_example(dialogue: Dialogue, chat: ChatFormat, max_tokens: int) -> Encoded | None:
    """Tokens of a dialogue, without its last turns where it is too long; None if not even one reply fits."""
    messages = list(dialogue.messages)
    while any(m.role == "assistant" for m in messages):
        rendered = _with_card(dialogue, messages)
        encoded = chat.encode_dialogue(rendered)
        if len(encoded.ids) <= max_tokens:
            return encoded
        last = max(i for i, m in enumerate(messages) if m.role == "assistant")
        messages = messages[:last]
    return None


def _with_card(dialogue: Dialogue, messages: Sequence[Message]) -> list[Message]:
    opening = [] if messages[0].role != "assistant" else [Message("user", "...")]
    messages = [*opening, *messages]
    return role_play_messages(dialogue.card, messages) if dialogue.card else messages


def train_sft(config: Config, pool: Pool, out: Path) -> dict[str, Any]:
    """Train and write ``out``: ``model`` (merged, loads anywhere), ``adapter`` (PEFT) and ``sft.json``."""
    assert config.sft is not None
    lm = load_model(config.model, chat_template=config.chat_template, accept_terms=config.accept_terms)
    data = sft_data(config, pool, lm.chat)
    print(f"sft: {data.summary}", flush=True)
    with atomic_folder(out) as folder:
        report = _run_trainer(config.sft, config.seed, lm, data, folder)
        write_json(folder / "sft.json", report | {"mixture": data.summary, "model": config.model})
    return report


def _run_trainer(sft: SftConfig, seed: int, lm: LanguageModel, data: SftData, folder: Path) -> dict[str, Any]:
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from rlrp.stages.sft_trainer import CpuSFTTrainer, ShowProgress

    disable_progress_bar()  # its preparations take milliseconds

    on_cpu = lm.model.device.type == "cpu"
    rows = [
        {"input_ids": list(e.ids), "labels": [i if m else -100 for i, m in zip(e.ids, e.reply_mask, strict=True)]}
        for e in data.examples
    ]
    arguments = SFTConfig(
        output_dir=str(folder / "trainer"),
        num_train_epochs=sft.epochs,
        # One dialogue at a time: no padding, and the memory of the longest dialogue alone.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=sft.batch_size,
        learning_rate=sft.learning_rate,
        warmup_steps=sft.warmup_ratio,  # below 1 it is a share of all steps
        lr_scheduler_type="cosine",
        max_length=sft.max_tokens,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=5,
        seed=seed,
        bf16=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=False,
    )
    model = add_lora(lm.model, lora_settings(sft.lora), seed=seed)
    make = CpuSFTTrainer if on_cpu else SFTTrainer
    trainer = make(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer)
    trainer.remove_callback(PrinterCallback)
    with ShowProgress(trainer):
        result = trainer.train()
    history = [{k: v for k, v in row.items() if k in ("step", "loss", "epoch")} for row in trainer.state.log_history]
    trainer.model.save_pretrained(folder / "adapter")
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return {"loss": result.training_loss, "steps": trainer.state.global_step, "history": history}


def lora_settings(lora: Any) -> LoraSettings:
    """The adapter's settings as the ``lm`` room takes them."""
    targets = lora.targets if isinstance(lora.targets, str) else tuple(lora.targets)
    return LoraSettings(lora.r, lora.alpha, lora.dropout, targets)
