"""PPO with a critic: values and gradients against the plain forward, checkpoints, and what it learns."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, plain_logprobs, save_tiny

from rlrp.errors import UserError
from rlrp.lm.adapters import LoraSettings, adapter_state, checksum
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.rl.critic import CriticSettings
from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup, TrainingDiverged
from rlrp.rl.ppo import explained_variance

from .made import LORA, TEMPERATURE, captured, moved, sampled_by

GROUPS = [
    TrainGroup(
        (1, 9, 200, 31, 77, 12),
        ((4, 5, 6), (7,), (), (8, 9)),
        ((-3.0, -3.0, -3.0), (-3.0,), (), (-3.0, -3.0)),
        (0.0,) * 4,
        rewards=(((0, 0.5), (2, 1.0)), ((0, -1.0),), ((0, 3.0),), ((1, 0.25),)),
    ),
    TrainGroup((250, 4), ((3, 3, 3, 3),), ((-3.0,) * 4,), (0.0,), rewards=(((3, 2.0),),)),
]
"""Several payments, an empty completion, and a group of one."""
TOKENS = 10


@pytest.fixture(scope="module", params=["adapter", "model"])
def settings(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """PPO with the critic on the policy's base, and on a wider model of its own."""
    model = None
    if request.param == "model":
        model = save_tiny(tmp_path_factory.mktemp("critic"), hidden_size=48, seed=3)
    critic = CriticSettings(model, LORA, learning_rate=1e-2, gamma=0.9, lam=0.8)
    return ppo(tiny_folder, critic)


def ppo(folder: str, critic: CriticSettings, **other: Any) -> LearnerSettings:
    choices: dict[str, Any] = {
        "aggregate": "token",
        "baseline": "none",
        "advantage_scale": "whiten",
        "kl_place": "reward",
        "kl_coef": 0.3,
        "learning_rate": 1e-2,
        "temperature": TEMPERATURE,
        "max_new_tokens": 8,
        "lora": LORA,
    }
    return LearnerSettings(folder, critic=critic, **(choices | other))


def plain_critic(learner: Learner) -> Any:
    """A copy of the critic's model with its adapter on: PEFT's forward, eager attention."""
    assert learner.critic is not None
    model = copy.deepcopy(learner.critic.model)
    if learner.critic.settings.model is None:
        model.set_adapter("critic")
    model.get_base_model().set_attn_implementation("eager")
    return model


def plain_values(learner: Learner, groups: list[TrainGroup], model: Any = None) -> torch.Tensor:
    """Every [prompt; completion] alone through the plain critic, or through a ``model`` that is one."""
    assert learner.critic is not None
    model = model or plain_critic(learner)
    return torch.cat([_values(model, learner.critic.head, g.prompt, c) for g in groups for c in g.completions if c])


def _values(model: Any, head: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    out = model(input_ids=torch.tensor([[*prompt, *completion[:-1]]]), output_hidden_states=True, use_cache=False)
    hidden = out.hidden_states[-1][0, len(prompt) - 1 :]
    return (hidden * head.weight).sum(-1) / hidden.shape[-1] ** 0.5 + head.bias


def test_values_over_the_shared_prefix_are_those_of_the_plain_forward(settings: LearnerSettings) -> None:
    learner = moved(Learner(settings))
    assert learner.critic is not None and learner.policy.share_prefix
    with torch.no_grad(), learner.critic.active():
        ours = learner.critic.values([TokenGroup(g.prompt, g.completions) for g in GROUPS])
    assert ours.shape == (TOKENS,)
    assert float(ours.std()) > 0.01
    torch.testing.assert_close(ours, plain_values(learner, GROUPS), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["Qwen3", "Gemma3"])
def test_of_other_architectures_too(architecture: str, tmp_path: Path) -> None:
    learner = moved(Learner(ppo(save_tiny(tmp_path, architecture), CriticSettings(lora=LORA))))
    assert learner.critic is not None
    with torch.no_grad(), learner.critic.active():
        ours = learner.critic.values([TokenGroup(g.prompt, g.completions) for g in GROUPS])
    torch.testing.assert_close(ours, plain_values(learner, GROUPS), atol=1e-5, rtol=1e-4)


def test_values_begin_near_zero_and_are_a_function_of_the_seed(settings: LearnerSettings) -> None:
    heads = []
    for seed in (0, 0, 1):
        learner = Learner(replace(settings, seed=seed))
        assert learner.critic is not None
        heads.append(learner.critic.head.weight.detach())
        assert plain_values(learner, GROUPS).abs().max() < 0.1
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_the_critic_changes_nothing_that_the_policy_says(settings: LearnerSettings) -> None:
    """Neither by its adapter's weights nor by its turns at the model: log-probabilities, anchor, trained weights."""
    alone, learner = moved(Learner(replace(settings, critic=None))), moved(Learner(settings))
    assert learner.critic is not None
    assert learner.policy.parameters.keys() == alone.policy.parameters.keys()
    assert not set(map(id, learner.policy.parameters.values())) & set(map(id, learner.critic.parameters.values()))
    groups = [TokenGroup(g.prompt, g.completions) for g in GROUPS]
    for _ in range(2):
        found = []
        for one in (learner, alone):
            own = token_logprobs(one.policy.model, groups, temperature=TEMPERATURE).logp
            found.append((own, one.policy.with_anchor(lambda model: token_logprobs(model, groups).logp)))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        with learner.critic.active():
            learner.critic.values(groups).sum().backward()
        assert all(p.grad is None for p in learner.policy.parameters.values())
    assert learner.weights()[1] == alone.weights()[1]


def written_out(
    learner: Learner, groups: list[TrainGroup], coef: float, plain: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's two losses, every completion alone through the plain forward; the values and the returns."""
    assert learner.critic is not None
    own, model = learner.critic.settings, copy.deepcopy(learner.policy.model)
    model.get_base_model().set_attn_implementation("eager")
    rows = [(g, c) for g in groups for c in range(len(g.completions)) if g.completions[c]]
    everyones = torch.tensor([mine for g, c in rows for mine in g.said(c)])
    value = plain_values(learner, groups, plain)[everyones]
    advantages, returns, logps, olds, at = [], [], [], [], 0
    for group, c in rows:
        tokens, said = [TokenGroup(group.prompt, (group.completions[c],))], torch.tensor(group.said(c))
        logp = plain_logprobs(model, tokens, TEMPERATURE)[said]
        with torch.no_grad(), model.disable_adapter():
            reference = plain_logprobs(model, tokens, TEMPERATURE)[said]
        old, v = torch.tensor(group.logps[c])[said], value.detach()[at : at + len(logp)]
        reward = -coef * (old - reference)
        for place, paid in group.rewards[c]:
            reward[int(said[: place + 1].sum()) - 1] += paid
        delta = reward + own.gamma * torch.cat([v[1:], torch.zeros(1)]) - v
        fade = own.gamma * own.lam
        advantage = torch.stack([sum(delta[t + i] * fade**i for i in range(len(v) - t)) for t in range(len(v))])
        advantages, returns = [*advantages, advantage], [*returns, advantage + v]
        logps, olds, at = [*logps, logp], [*olds, old], at + len(logp)
    advantage = torch.cat(advantages)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-4)
    ratio = torch.exp(torch.cat(logps) - torch.cat(olds))
    policy = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    return policy, 0.5 * (value - torch.cat(returns)).square().mean(), value.detach(), torch.cat(returns)


@pytest.mark.parametrize("whole", [True, False])
def test_both_gradients_are_those_of_the_objectives_written_out(settings: LearnerSettings, whole: bool) -> None:
    """Also of conversations, in which what others said has no value, no advantage and no part in either loss."""
    learner = moved(Learner(replace(settings, max_grad_norm=1e9)))
    groups = sampled_by(moved(Learner(settings), seed=5), GROUPS)  # by another policy: ratios are not 1
    if not whole:
        groups[0] = replace(groups[0], spoken=((True, False, True), (True,), (), (True, True)))
        groups[1] = replace(groups[1], spoken=((True, False, False, True),))
    assert learner.critic is not None
    plain = plain_critic(learner)
    policy, critic, value, returns = written_out(learner, groups, 0.3, plain)
    own = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    own |= {f"head.{n}": p for n, p in learner.critic.head.named_parameters()}
    expected = dict(zip(own, torch.autograd.grad(critic, list(own.values())), strict=True))
    seen = captured(learner)
    metrics = learner.step(groups).metrics
    assert metrics["loss"] == pytest.approx(float(policy.detach()), abs=1e-5)
    assert metrics["value_loss"] == pytest.approx(float(critic.detach()), rel=1e-4)
    assert metrics["explained_variance"] == pytest.approx(explained_variance(value, returns), abs=1e-4)
    assert metrics["ratio_max"] > 1.05
    assert {name for name in seen if name.startswith("critic/")} == {f"critic/{name}" for name in expected}
    for name, gradient in expected.items():
        assert (seen[f"critic/{name}"] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


@pytest.fixture
def oracle(settings: LearnerSettings) -> Iterator[tuple[Learner, dict[str, torch.Tensor]]]:
    """A learner whose models take the plain path, autograd through PEFT's own forward: the gradient's oracle."""
    learner = moved(Learner(replace(settings, max_grad_norm=1e9, share_prefix=False, token_budget=1)))
    yield learner, captured(learner)


def test_gradients_over_the_shared_prefix_are_those_of_the_plain_path(
    settings: LearnerSettings, oracle: tuple[Learner, dict[str, torch.Tensor]]
) -> None:
    plain, expected = oracle
    shared = moved(Learner(replace(settings, max_grad_norm=1e9)))
    seen = captured(shared)
    groups = sampled_by(moved(Learner(settings), seed=5), GROUPS)
    reports = [learner.step(groups) for learner in (shared, plain)]
    assert seen.keys() == expected.keys()
    assert {n.split(".")[0] for n in seen} >= {"critic/head", "base_model"}
    for name, gradient in expected.items():
        assert (seen[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    assert reports[0].metrics == pytest.approx(reports[1].metrics, rel=1e-3, abs=1e-5)
    for ours, theirs in zip(reports[0].advantages, reports[1].advantages, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert [len(row) for row in reports[0].advantages] == [4, 1]
    assert reports[0].advantages[0][2] == 0  # said nothing


def test_warm_up_leaves_the_policy_untouched(settings: LearnerSettings) -> None:
    assert settings.critic is not None
    learner = Learner(replace(settings, critic=replace(settings.critic, warmup_steps=2), warmup_steps=2, epochs=2))
    groups = sampled_by(learner, GROUPS)
    assert learner.critic is not None
    before, seen = checksum(adapter_state(learner.policy.model)), []
    for step in range(4):
        metrics = learner.step(groups).metrics
        seen.append(checksum({n: p.detach() for n, p in learner.critic.parameters.items()}))
        if step < 2:
            assert learner.weights()[1] == before
            assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
            assert learner.engine.state() == {}
            assert "learning_rate" not in metrics and learner.kl.coef == 0.3
        else:
            # The policy's own warm-up begins where the critic's ends.
            assert metrics["learning_rate"] == pytest.approx([0.005, 0.01][step - 2])
    assert learner.weights()[1] != before
    assert len(set(seen)) == 4
    assert (learner.steps, learner.updates) == (4, 4)


def test_a_sampler_that_disagrees_is_found_in_the_warm_up(settings: LearnerSettings) -> None:
    assert settings.critic is not None
    learner = Learner(replace(settings, critic=replace(settings.critic, warmup_steps=2)))
    assert learner.critic is not None
    with pytest.raises(TrainingDiverged, match="disagree"):
        learner.step(GROUPS)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_goes_on_bit_by_bit(settings: LearnerSettings, tmp_path: Path, dropout: float) -> None:
    assert settings.critic is not None
    lora = replace(LORA, dropout=dropout)
    critic = replace(settings.critic, lora=lora, warmup_steps=1)
    settings = replace(settings, critic=critic, lora=lora, epochs=2, minibatches=2, kl_target=0.05)

    def goes_on(learner: Learner) -> list[Any]:
        assert learner.critic is not None
        out = []
        for _ in range(2):
            metrics = learner.step(groups).metrics
            out.append((metrics, learner.weights()[1], checksum({n: p for n, p in learner.critic.parameters.items()})))
        return out

    learner = Learner(settings)
    groups = sampled_by(Learner(replace(settings, lora=LORA)), GROUPS)
    for _ in range(3):
        learner.step(groups)
    learner.save(tmp_path)
    expected = goes_on(learner)
    torch.manual_seed(12345)  # another process has another state
    resumed = Learner(replace(settings))
    resumed.load(tmp_path)
    assert (resumed.steps, resumed.updates) == (3, 8)
    assert goes_on(resumed) == expected
    # A run that stops within the warm-up has nothing of the policy's optimizer, and nothing needs pickle.
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {".safetensors", ".json", ".jinja", ".md"}


def test_a_checkpoints_policy_is_an_adapter_that_anyone_can_load(settings: LearnerSettings, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    learner = moved(Learner(settings))
    learner.save(tmp_path)
    group = [TokenGroup((1, 2, 3), ((4, 5), (6,)))]
    with torch.no_grad():
        expected = plain_logprobs(learner.policy.model.eval(), group)
        theirs = plain_logprobs(AutoPeftModelForCausalLM.from_pretrained(tmp_path), group)
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)


def test_weights_that_all_move_are_no_base_for_a_critic(tiny_folder: str) -> None:
    with pytest.raises(UserError, match=r"rl.critic.model: got null where all of the policy's weights are trained"):
        Learner(ppo(tiny_folder, CriticSettings(), lora=None))


@pytest.mark.parametrize("share", [True, False])
def test_a_critic_of_its_own_beside_a_policy_of_full_weights(tiny_folder: str, share: bool) -> None:
    learner = Learner(ppo(tiny_folder, CriticSettings(tiny_folder, LORA), lora=None, share_prefix=share))
    groups, before = sampled_by(learner, GROUPS), learner.weights()[1]
    metrics = learner.step(groups).metrics
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4) and metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["critic_grad_norm"] > 0 and learner.weights()[1] != before


def test_a_critic_that_reads_other_tokens_is_refused(tiny_folder: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"rl.critic.model: its tokenizer is not the policy's"):
        Learner(ppo(tiny_folder, CriticSettings(folder)))


# -- learning ------------------------------------------------------------------------------------------------------
#
# With a KL to the anchor in the reward the best policy is known: ref * exp(reward / coef) / Z over texts, and what it
# is worth, reward less coef * KL, is coef * log Z. Everything is enumerated; nothing is estimated.

VOCABULARY = 6


@pytest.fixture(scope="module")
def few_tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("few"), vocab_size=VOCABULARY)


class Task:
    """All texts of some tokens after each prompt, and what each pays; the learner draws from its own policy."""

    def __init__(self, learner: Learner, prompts: list[tuple[int, ...]], pays: torch.Tensor, tokens: int, coef: float):
        self.learner, self.prompts, self.pays, self.coef = learner, prompts, pays, coef
        self.texts = list(itertools.product(range(VOCABULARY), repeat=tokens))
        self.generator = torch.Generator().manual_seed(0)
        self.reference = self.logps().sum(-1)
        self.best = float((coef * (self.reference + pays / coef).logsumexp(-1)).mean())
        self.first = self.worth()

    def logps(self) -> torch.Tensor:  # [prompts, texts, tokens]
        groups = [TokenGroup(prompt, tuple(self.texts)) for prompt in self.prompts]
        with torch.no_grad():
            logp = token_logprobs(self.learner.policy.model, groups).logp
        return logp.view(len(self.prompts), len(self.texts), -1)

    def worth(self) -> float:
        logp = self.logps().sum(-1)
        return float((logp.exp() * (self.pays - self.coef * (logp - self.reference))).sum(-1).mean())

    def step(self, per_prompt: int, groups_of: int) -> dict[str, float]:
        logps, groups = self.logps(), []
        for prompt, logp, pays in zip(self.prompts, logps, self.pays, strict=True):
            drawn = torch.multinomial(logp.sum(-1).exp(), per_prompt, replacement=True, generator=self.generator)
            for part in drawn.split(groups_of):
                rows = part.tolist()
                groups.append(
                    TrainGroup(
                        prompt,
                        tuple(self.texts[row] for row in rows),
                        tuple(tuple(logp[row].tolist()) for row in rows),
                        (0.0,) * len(rows),
                        rewards=tuple(((logp.shape[1] - 1, float(pays[row])),) for row in rows),
                    )
                )
        return self.learner.step(groups).metrics


def learner_of(folder: str, coef: float, **other: Any) -> Learner:
    critic = CriticSettings(lora=LoraSettings(r=8, alpha=16), learning_rate=1e-2, warmup_steps=2, value_clip=None)
    choices: dict[str, Any] = {"kl_coef": coef, "learning_rate": 3e-3, "temperature": 1.0, "epochs": 2}
    return Learner(ppo(folder, critic, lora=LoraSettings(r=8, alpha=16), **(choices | other)))


def test_learns_a_bandit_with_groups_of_one(few_tokens: str) -> None:
    """Three states, six actions, and every reply the only one of its prompt."""
    pays = 2 * torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(3))
    task = Task(learner_of(few_tokens, 0.3, minibatches=2), [(1, 3), (2, 0, 5), (4,)], pays, 1, 0.3)
    for _ in range(20):
        metrics = task.step(12, 1)
    assert task.best - task.first > 2
    assert (task.worth() - task.first) / (task.best - task.first) > 0.95
    assert metrics["explained_variance"] > 0.3  # it tells the states apart: within one, what is paid is chance


def test_learns_texts_to_their_optimum(few_tokens: str) -> None:
    pays = torch.randn(1, VOCABULARY**2, generator=torch.Generator().manual_seed(5))
    task = Task(learner_of(few_tokens, 0.3), [(1, 3, 4)], pays, 2, 0.3)
    for _ in range(40):
        task.step(64, 64)
    assert task.best - task.first > 2
    assert (task.worth() - task.first) / (task.best - task.first) > 0.97
