"""PPO's functions by hand, against loops written out, and on tasks whose optimum is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlrp.rl.advantages import whiten
from rlrp.rl.experience import payments, reward_to_go
from rlrp.rl.kl import token_rewards
from rlrp.rl.losses import grpo_loss
from rlrp.rl.ppo import explained_variance, gae, value_loss

# -- advantages ----------------------------------------------------------------------------------------------------


def written_out(
    rewards: list[float], values: list[float], after: float, gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """The sum of the paper for every token of one completion, term by term."""
    follow = [*values, after][1:]
    errors = [r + gamma * n - v for r, v, n in zip(rewards, values, follow, strict=True)]
    advantages = [sum((gamma * lam) ** i * e for i, e in enumerate(errors[t:])) for t in range(len(errors))]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


rates = st.sampled_from([0.0, 0.5, 0.95, 1.0])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), rates, rates, st.booleans(), st.integers(0, 10**6))
def test_equal_to_the_sum_written_out(lengths: list[int], gamma: float, lam: float, cut: bool, seed: int) -> None:
    torch.manual_seed(seed)
    rewards, values = torch.randn(2, sum(lengths), dtype=torch.float64)
    after = torch.randn(len(lengths), dtype=torch.float64)
    ours = gae(rewards, values, torch.tensor(lengths), gamma=gamma, lam=lam, after_B=after if cut else None)
    expected: tuple[list[float], list[float]] = ([], [])
    parts = zip(rewards.split(lengths), values.split(lengths), after.tolist(), strict=True)
    for r, v, a in parts:
        for so_far, new in zip(
            expected, written_out(r.tolist(), v.tolist(), a if cut else 0.0, gamma, lam), strict=True
        ):
            so_far.extend(new)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64))


def test_by_hand() -> None:
    # Errors: 0 + 2 - 1 = 1, 0 + 4 - 2 = 2, 5 + 0 - 4 = 1; halved on the way back: 1 + (2 + 1 / 2) / 2 = 2.25.
    rewards, values = torch.tensor([0.0, 0, 5]), torch.tensor([1.0, 2, 4])
    advantages, returns = gae(rewards, values, torch.tensor([3]), lam=0.5)
    assert advantages.tolist() == [2.25, 2.5, 1.0]
    assert returns.tolist() == [3.25, 4.5, 5.0]
    cut, _ = gae(rewards, values, torch.tensor([3]), lam=0.5, after_B=torch.tensor([2.0]))
    assert cut.tolist() == [2.75, 3.5, 3.0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 10**6))
def test_its_ends(lengths: list[int], seed: int) -> None:
    """``lam`` 1: the reward to go less the value. ``lam`` 0: the error of one step. A critic that knows: nothing."""
    torch.manual_seed(seed)
    rewards, values = torch.randn(2, sum(lengths), dtype=torch.float64)
    counts = torch.tensor(lengths)
    to_go = torch.cat([part.flip(0).cumsum(0).flip(0) for part in rewards.split(lengths)])
    torch.testing.assert_close(gae(rewards, values, counts, lam=1.0), (to_go - values, to_go))
    follow = torch.cat([torch.cat([part[1:], part.new_zeros(1)]) for part in values.split(lengths)])
    torch.testing.assert_close(gae(rewards, values, counts, lam=0.0)[0], rewards + follow - values)
    torch.testing.assert_close(gae(rewards, to_go, counts)[0], torch.zeros_like(to_go))


def test_nothing_flows_back_and_lengths_are_checked() -> None:
    values = torch.zeros(3, requires_grad=True)
    assert not any(x.requires_grad for x in gae(torch.ones(3), values, torch.tensor([1, 2])))
    assert [x.tolist() for x in gae(torch.zeros(0), torch.zeros(0), torch.tensor([0, 0]))] == [[], []]
    with pytest.raises(ValueError, match="3 rewards, 3 values and lengths that sum to 2"):
        gae(torch.ones(3), values, torch.tensor([2]))


def test_reinforce_plus_plus_at_tokens() -> None:
    """Its advantage at a token: the reward less the coefficient times the k1 from there on; then whitened."""
    # k1 is 1, -2 and 0.5; with coefficient 0.1: 3 + 0.1 and 3 + 0.2, and -1 - 0.05.
    logp, ref = torch.tensor([0.0, -3.0, -0.5]), torch.tensor([-1.0, -1.0, -1.0])
    lengths = torch.tensor([2, 1])
    rewards = token_rewards(payments([((1, 3.0),), ((0, -1.0),)], lengths), logp, ref, 0.1)
    to_go = torch.tensor([3.1, 3.2, -1.05])
    torch.testing.assert_close(reward_to_go(rewards, lengths), whiten(to_go))


# -- the critic's loss ---------------------------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    # All were 0. To 0.1, inside the clip; to 1 on the way to 2, clipped to 0.2; to -1 away from 2; to 1 past 0.5.
    value = torch.tensor([0.1, 1.0, -1.0, 1.0], requires_grad=True)
    returns, weight = torch.tensor([2.0, 2.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, 1.0, 1.0])
    out = value_loss(value, torch.zeros(4), returns, weight)
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(0.5 * (1.9**2 + 2 * 1.8**2 + 3**2 + 0.5**2))
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([-1.9, 0.0, -3.0, 0.5])  # the second has moved enough
    assert out.clipped.tolist() == [False, True, False, False]


@given(st.integers(1, 9), st.sampled_from([0.1, 0.2, None]), st.integers(0, 10**6))
def test_value_loss_written_out(tokens: int, clip: float | None, seed: int) -> None:
    torch.manual_seed(seed)
    value, old, returns = torch.randn(3, tokens, dtype=torch.float64)
    weight = torch.rand(tokens, dtype=torch.float64)
    expected = 0.0
    for v, o, r, w in zip(value.tolist(), old.tolist(), returns.tolist(), weight.tolist(), strict=True):
        near = v if clip is None else min(max(v, o - clip), o + clip)
        expected += 0.5 * w * max((v - r) ** 2, (near - r) ** 2)
    assert float(value_loss(value, old, returns, weight, clip=clip).loss) == pytest.approx(expected)
    # Before the first update nothing is clipped: the squared error.
    first = value_loss(value, value, returns, weight, clip=clip)
    assert float(first.loss) == pytest.approx(float(0.5 * (weight * (value - returns) ** 2).sum()))
    assert not first.clipped.any()


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(returns + 5, returns) == pytest.approx(1.0)  # a constant error is not seen
    assert explained_variance(torch.full((3,), 9.0), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(1 - 4)  # R - V = 2 R
    assert explained_variance(torch.tensor([1.0, 2.0, 2.0]), returns) == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert math.isnan(explained_variance(returns, torch.ones(3)))
    assert math.isnan(explained_variance(torch.zeros(0), torch.zeros(0)))


# -- learning ------------------------------------------------------------------------------------------------------
#
# With a KL to a reference in the reward the optimum is known and lies inside: at a text's last token
# pi* = ref * exp(r / beta) / Z with the value beta * log Z, and before it the same with the next value for r.


class Tabular:
    """A policy and a critic with a row for every state, trained by PPO on what they draw themselves."""

    def __init__(self, reference: torch.Tensor, beta: float, seed: int):
        self.reference, self.beta = reference, beta  # [states, actions], log-probabilities
        self.logits = reference.clone().requires_grad_()
        self.values = torch.zeros(len(reference), requires_grad=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.explained = float("nan")

    def draw(self, state: torch.Tensor) -> torch.Tensor:
        chances = self.logits.detach().softmax(-1)[state]
        return torch.multinomial(chances, 1, generator=self.generator)[:, 0]

    def train(self, rollout: Any, updates: int, *, epochs: int = 3, rate: float = 0.05, lam: float = 0.95) -> None:
        optimizer = torch.optim.Adam([self.logits, self.values], lr=rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, updates)
        for _ in range(updates):
            state_S, action_S, lengths, reward_B = rollout(self)
            with torch.no_grad():
                old_logp = self.logits.log_softmax(-1)[state_S, action_S]
                old_value = self.values[state_S]
            paid = torch.zeros(len(state_S))
            paid[lengths.cumsum(0) - 1] = reward_B
            rewards = token_rewards(paid, old_logp, self.reference[state_S, action_S], self.beta)
            advantage, returns = gae(rewards, old_value, lengths, lam=lam)
            self.explained = explained_variance(old_value, returns)
            weight = torch.full((len(state_S),), 1 / len(state_S))
            for _ in range(epochs):
                logp = self.logits.log_softmax(-1)[state_S, action_S]
                policy = grpo_loss(logp, old_logp, advantage, weight).loss
                critic = value_loss(self.values[state_S], old_value, returns, weight).loss
                optimizer.zero_grad()
                (policy + critic).backward()
                optimizer.step()
            schedule.step()


def soft_optimum(reference: torch.Tensor, worth: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Policy and value of states whose actions are worth so much, [..., actions]."""
    scores = reference + worth / beta
    return scores.softmax(-1), beta * scores.logsumexp(-1)


def test_learns_bandits_to_their_optimum() -> None:
    worth = torch.tensor([[1.0, 0.5, 0.0, -0.5], [0.0, 0.0, 1.0, 0.9], [-1.0, -2.0, -1.5, -1.0]])
    reference = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(3, 4)
    learner = Tabular(reference, beta=0.3, seed=0)

    def rollout(learner: Tabular) -> Any:
        state = torch.randint(3, (256,), generator=learner.generator)
        action = learner.draw(state)
        return state, action, torch.ones(256, dtype=torch.long), worth[state, action]

    learner.train(rollout, 150)
    policy, value = soft_optimum(reference, worth, 0.3)
    torch.testing.assert_close(learner.logits.detach().softmax(-1), policy, atol=0.02, rtol=0)
    torch.testing.assert_close(learner.values.detach(), value, atol=0.03, rtol=0)
    assert learner.explained > 0.95


def test_learns_a_token_task_to_its_optimum() -> None:
    """Texts of up to three tokens, 0 ends one. Stopping at once pays a little; what pays most is the text 2 1 2, whose
    beginnings pay nothing: the critic must carry the last token's reward to the first."""
    states = [(), (1,), (2,), (1, 1), (1, 2), (2, 1), (2, 2)]
    paid = {(0,): 0.4, (1, 0): 0.5, (2, 1, 2): 1.5, (2, 2, 0): 0.3}
    number = {text: i for i, text in enumerate(states)}
    reference = torch.full((len(states), 3), 1 / 3).log()
    beta = 0.25

    policy, value = torch.zeros(len(states), 3), torch.zeros(len(states))
    for text in reversed(states):  # the longest first
        after = [(*text, token) for token in range(3)]
        worth = torch.tensor([float(value[number[t]]) if t in number else paid.get(t, 0.0) for t in after])
        policy[number[text]], value[number[text]] = soft_optimum(reference[0], worth, beta)
    assert policy[0, 2] > 0.8 and policy[number[2, 1], 2] > 0.9

    follow = torch.tensor([[number.get((*text, token), -1) for token in range(3)] for text in states])
    pay = torch.tensor([[paid.get((*text, token), 0.0) for token in range(3)] for text in states])

    def rollout(learner: Tabular) -> Any:
        state, alive = torch.zeros(256, dtype=torch.long), torch.ones(256, dtype=torch.bool)
        rows, reward = [], torch.zeros(256)
        for _ in range(3):
            action = learner.draw(state)
            rows.append((state, action, alive))
            reward = torch.where(alive, pay[state, action], reward)
            state = follow[state, action]
            alive = alive & (state >= 0)
            state = state.clamp(min=0)
        state_BT, action_BT, alive_BT = (torch.stack(part, dim=1) for part in zip(*rows, strict=True))
        return state_BT[alive_BT], action_BT[alive_BT], alive_BT.sum(1), reward

    learner = Tabular(reference, beta, seed=1)
    learner.train(rollout, 300)
    learnt = learner.logits.detach().softmax(-1)
    visited = [number[text] for text in ((), (2,), (2, 1))]  # others are hardly drawn at the optimum
    torch.testing.assert_close(learnt[visited], policy[visited], atol=0.03, rtol=0)
    torch.testing.assert_close(learner.values.detach()[visited], value[visited], atol=0.05, rtol=0)
