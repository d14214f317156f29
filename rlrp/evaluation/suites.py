"""What a policy is evaluated on: held-out characters, over-cooperation probes, general questions, general text.

Every policy meets the same prompts with the same seeds. Role-play values are averaged per card (the unit of the
paired bootstrap), general ones are per item.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from rlrp.dialogue import Message, Pool, UserPrompt, read_prompts
from rlrp.errors import UserError
from rlrp.evaluation.metrics import Direction
from rlrp.evaluation.results import Evaluation, Reply, Turn
from rlrp.files import read_jsonl, read_text
from rlrp.lm.load import LanguageModel
from rlrp.lm.prompts import Prompt, make_prompt
from rlrp.lm.sampling import Completion, Sampler, SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup, micro_batches, token_logprobs
from rlrp.progress import progress
from rlrp.protocols import Judgement, Reward

TOKEN_BUDGET = 2048
GENERAL_TOKENS = 20
"""Enough for a short answer in a sentence of its own."""


@dataclass(frozen=True)
class Probe:
    """A request that a character would refuse; a reply that matches one of the patterns complied."""

    id: str
    text: str
    comply_if: tuple[re.Pattern[str], ...]

    def complied(self, reply: str) -> bool:
        return any(pattern.search(reply) for pattern in self.comply_if)


@dataclass(frozen=True)
class Question:
    """A general question with its accepted short answers."""

    id: str
    kind: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """Everything a policy is asked: (card slug, card, messages so far) per prompt, probes, questions, paragraphs."""

    pool: Pool
    prompts: tuple[tuple[str, str, tuple[Message, ...]], ...]
    probes: tuple[tuple[str, Probe], ...]
    questions: tuple[Question, ...]
    paragraphs: tuple[str, ...]


def build_suite(
    pool: Pool,
    *,
    prompts: Sequence[UserPrompt],
    probes: Sequence[Probe],
    questions: Sequence[Question],
    paragraphs: Sequence[str],
    prompts_per_card: int,
    probes_per_card: int,
) -> Suite:
    """Deal prompts and probes to the held-out cards, evenly and the same way every time.

    Half of a card's prompts (rounded down) come from its own held-out dialogues, at different depths.
    """
    cards = sorted(pool.held_out_cards)
    if not cards:
        raise UserError("no card is held out, so nothing can be evaluated; set data.held_out", place="data.held_out")
    asked: list[tuple[str, str, tuple[Message, ...]]] = []
    given: list[tuple[str, Probe]] = []
    order = sorted(prompts, key=lambda p: hashlib.sha256(p.id.encode()).digest())
    for i, slug in enumerate(cards):
        contexts = _contexts(pool, slug)[: prompts_per_card // 2]
        asked += [(slug, f"{slug}/dialogue-{k}", context) for k, context in enumerate(contexts)]
        for k in range(prompts_per_card - len(contexts)):
            prompt = order[(i * prompts_per_card + k) % len(order)]
            asked.append((slug, f"{slug}/{prompt.id}", (Message("user", prompt.text),)))
        given += [(slug, probes[(i * probes_per_card + k) % len(probes)]) for k in range(probes_per_card)]
    return Suite(pool, tuple(asked), tuple(given), tuple(questions), tuple(paragraphs))


def _contexts(pool: Pool, slug: str) -> list[tuple[Message, ...]]:
    """Beginnings of a held-out card's dialogues that end with the user's turn: later dialogues are cut later."""
    card = pool.cards[slug]
    contexts = []
    for depth, dialogue in enumerate(d for d in pool.held_out_dialogues if d.card is card):
        ends = [i + 1 for i, m in enumerate(dialogue.messages) if m.role == "user"]
        contexts.append(dialogue.messages[: ends[min(depth, len(ends) - 1)]])
    return contexts


@dataclass(frozen=True)
class EvaluationSettings:
    samples_per_prompt: int = 2
    max_new_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0


def evaluate(
    name: str,
    lm: LanguageModel,
    suite: Suite,
    reward: Reward,
    settings: EvaluationSettings,
    *,
    anchor: LanguageModel | None = None,
) -> Evaluation:
    """Sample, judge and measure one policy; with the ``anchor`` of its training, the KL to it as well.

    The anchor's own KL, with ``anchor`` the policy itself, is 0 without being computed.
    """
    sampler = Sampler(lm)
    sampling = SamplingSettings(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    units: dict[str, dict[str, float | None]] = {}
    better: dict[str, Direction] = {}

    prompts = [make_prompt(lm.chat, id, slug, suite.pool.cards[slug], messages) for slug, id, messages in suite.prompts]
    probe_prompts = [
        make_prompt(lm.chat, f"{slug}/{probe.id}", slug, suite.pool.cards[slug], (Message("user", probe.text),))
        for slug, probe in suite.probes
    ]
    # All at once: prompts of a card begin alike, and that part goes through the model once.
    drawn = _sample(sampler, name, [*prompts, *probe_prompts], settings.samples_per_prompt, sampling, settings.seed)
    groups, answers = drawn[: len(prompts)], drawn[len(prompts) :]
    judged = reward.judge(
        [
            [p.sample(c.text, finished=c.finish == "stop") for c in group]
            for p, group in zip(prompts, groups, strict=True)
        ]
    )
    _role_play_units(prompts, groups, judged, units, better)
    if anchor is not None:
        same = anchor is lm
        units["kl"] = _means({p.card_id: [0.0] for p in prompts}) if same else _kl(prompts, groups, anchor, settings)
        better["kl"] = "lower"

    complied: dict[str, list[float]] = defaultdict(list)
    for (slug, probe), group in zip(suite.probes, answers, strict=True):
        complied[slug] += [float(probe.complied(c.text)) for c in group]
    units["over_cooperation"], better["over_cooperation"] = _means(complied), "lower"

    units["general_exact"], better["general_exact"] = _general(sampler, name, suite.questions), "higher"
    units["general_perplexity"], better["general_perplexity"] = _text(lm, suite.paragraphs), "lower"
    samples = _replies("held-out", prompts, groups, judged) + _replies("over-cooperation", probe_prompts, answers, None)
    return Evaluation(
        policy=name,
        n_cards=len(suite.pool.held_out_cards),
        units=units,
        better=better,
        samples=tuple(samples),
        settings={
            "seed": settings.seed,
            "temperature": settings.temperature,
            "max_new_tokens": settings.max_new_tokens,
            "replies": sum(len(g) for g in groups),
            "probe_replies": sum(len(g) for g in answers),
            "questions": len(suite.questions),
        },
    )


def _sample(
    sampler: Sampler, name: str, prompts: Sequence[Prompt], n: int, settings: SamplingSettings, seed: int
) -> list[list[Completion]]:
    requests = [
        SampleRequest(
            prompt.ids,
            tuple(
                int.from_bytes(hashlib.blake2b(f"{seed}/{prompt.id}/{k}".encode(), digest_size=8).digest())
                for k in range(n)
            ),
        )
        for prompt in prompts
    ]
    with progress(f"eval {name}: replies", n * len(prompts)) as advance:
        return sampler.sample(requests, settings, progress=advance)


def _role_play_units(
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Completion]],
    judged: Sequence[Sequence[Judgement]],
    units: dict[str, dict[str, float | None]],
    better: dict[str, Direction],
) -> None:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for prompt, group, judgements in zip(prompts, groups, judged, strict=True):
        for completion, judgement in zip(group, judgements, strict=True):
            row = {"composite": judgement.total, "reply_tokens": float(len(completion.ids)), **judgement.terms}
            if "blacklist" in judgement.parts:
                row["blacklist_hits"] = 100.0 * judgement.parts["blacklist"]["hits"]
            for metric, value in row.items():
                cards = values[metric]
                cards.setdefault(prompt.card_id, [])
                if value is not None:
                    cards[prompt.card_id].append(value)
    for metric, by_card in values.items():
        units[metric] = _means(by_card)
        better[metric] = "lower" if metric == "blacklist_hits" else "higher"


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    return {unit: fmean(found) if found else None for unit, found in values.items()}


@torch.no_grad()
def _kl(
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Completion]],
    anchor: LanguageModel,
    settings: EvaluationSettings,
) -> dict[str, float | None]:
    """Per card, the mean per-token k3 estimate of KL(policy || anchor) in nats, at the sampling temperature."""
    per_card: dict[str, list[float]] = defaultdict(list)
    token_groups = [TokenGroup(p.ids, tuple(c.ids for c in group)) for p, group in zip(prompts, groups, strict=True)]
    for pack, places in micro_batches(token_groups, TOKEN_BUDGET):
        reference = token_logprobs(anchor.model, pack, temperature=settings.temperature or 1.0).logp
        own = torch.tensor([x for g, c in places for x in groups[g][c].logps])
        log_ratio = reference.cpu() - own
        k3 = log_ratio.exp() - log_ratio - 1.0
        for (g, _), part in zip(places, k3.split([len(groups[g][c].ids) for g, c in places]), strict=True):
            per_card[prompts[g].card_id] += part.tolist()
    return _means(per_card)


def _general(sampler: Sampler, name: str, questions: Sequence[Question]) -> dict[str, float | None]:
    """1 where the greedy answer matches, else 0, by question."""
    chat = sampler.lm.chat
    requests = [SampleRequest(chat.encode_prompt([Message("user", q.text)]), (0,)) for q in questions]
    with progress(f"eval {name}: questions", len(questions)) as advance:
        greedy = SamplingSettings(max_new_tokens=GENERAL_TOKENS, temperature=0)
        answers = sampler.sample(requests, greedy, progress=advance)
    return {q.id: float(matches(group[0].text, q.answers)) for q, group in zip(questions, answers, strict=True)}


def matches(reply: str, answers: Sequence[str]) -> bool:
    """Whether a short reply gives an accepted answer.

    A number counts if it is the last one on the reply's first line ("3 + 4 = 7"); words count if they stand on the
    first line as whole words (Chinese: as they are). Case, width and punctuation do not matter.
    """
    line = next((part for part in reply.splitlines() if part.strip()), "")
    text = unicodedata.normalize("NFKC", line).casefold()
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    for answer in answers:
        wanted = unicodedata.normalize("NFKC", answer).casefold().strip()
        if re.fullmatch(r"-?\d+(?:\.\d+)?", wanted):
            if numbers and float(numbers[-1]) == float(wanted):
                return True
        elif re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", text):
            return True
    return False


@torch.no_grad()
def _text(lm: LanguageModel, paragraphs: Sequence[str]) -> dict[str, float | None]:
    """Mean negative log-likelihood per token (nats) of each paragraph."""
    start = lm.tokenizer.bos_token_id if lm.tokenizer.bos_token_id is not None else lm.tokenizer.eos_token_id
    groups = [
        TokenGroup((start,), (tuple(lm.tokenizer.encode(text, add_special_tokens=False)),)) for text in paragraphs
    ]
    losses: dict[str, float | None] = {}
    for pack, places in micro_batches(groups, TOKEN_BUDGET):
        logp = token_logprobs(lm.model, pack).logp
        for (g, _), part in zip(places, logp.split([p.scored_tokens for p in pack]), strict=True):
            losses[f"text-{g + 1:02d}"] = -float(part.mean())
    return losses


def _replies(
    suite: str,
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Completion]],
    judged: Sequence[Sequence[Judgement]] | None,
) -> list[Reply]:
    rows = []
    for i, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        for k, completion in enumerate(group):
            judgement = judged[i][k] if judged else None
            rows.append(
                Reply(
                    card=prompt.card_id,
                    suite=suite,
                    prompt=tuple(Turn(role=m.role, content=m.content) for m in prompt.messages),
                    reply=completion.text,
                    terms=judgement.terms if judgement else {},
                    reasons=judgement.reasons if judgement else {},
                )
            )
    return rows


def read_probes(path: str | Path) -> list[Probe]:
    """Probes from JSONL: ``{"id", "text", "comply_if": [regular expressions]}``."""
    probes = []
    for line, row in read_jsonl(path):
        place = f"line {line}"
        try:
            patterns = tuple(re.compile(p, re.IGNORECASE) for p in row["comply_if"])
            probes.append(Probe(str(row["id"]), str(row["text"]), patterns))
        except (KeyError, TypeError) as error:
            raise UserError(f"needs id, text and comply_if ({error})", file=path, place=place) from None
        except re.error as error:
            raise UserError(f"comply_if is not a regular expression: {error}", file=path, place=place) from None
    return _some(probes, path)


def read_questions(path: str | Path) -> list[Question]:
    """Questions from JSONL: ``{"id", "kind", "question", "answers": [short answers]}``."""
    questions = []
    for line, row in read_jsonl(path):
        try:
            answers = tuple(str(answer) for answer in row["answers"])
            questions.append(Question(str(row["id"]), str(row.get("kind", "")), str(row["question"]), answers))
        except (KeyError, TypeError) as error:
            raise UserError(f"needs id, question and answers ({error})", file=path, place=f"line {line}") from None
    return _some(questions, path)


def read_paragraphs(path: str | Path) -> list[str]:
    """Paragraphs of a text file, parted by blank lines."""
    return _some([p.strip() for p in re.split(r"\n\s*\n", read_text(path)) if p.strip()], path)


def _some(items: list[Any], path: str | Path) -> list[Any]:
    if not items:
        raise UserError("is empty", file=path)
    return items


__all__ = [
    "EvaluationSettings",
    "Probe",
    "Question",
    "Suite",
    "build_suite",
    "evaluate",
    "matches",
    "read_paragraphs",
    "read_probes",
    "read_prompts",
    "read_questions",
]
