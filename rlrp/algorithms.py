"""The algorithms that ``rl.algorithm`` names, each as the choices it is made of: one table. Nothing here needs torch.

``rlrp.rl.losses`` and ``rlrp.rl.advantages`` hold the formulas that the choices name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Surrogate = Literal["clip", "cispo"]
"""What is minimised: PPO's clipped surrogate, or REINFORCE under bounded importance weights."""
Ratio = Literal["token", "sequence", "trajectory"]
"""What the importance ratio is of: a token, a completion (geometric mean of its tokens'), a completion (product)."""
Aggregate = Literal["grpo", "dr_grpo", "token"]
"""How tokens add up to a batch's loss: completions alike, tokens over the longest length, tokens alike."""
Baseline = Literal["group", "leave_one_out", "none"]
"""What is taken from a reward: its group's mean, the mean of the group's others, nothing."""
Scale = Literal["group", "batch", "character", "terms", "whiten", "none"]
"""What advantages are divided by: a standard deviation of rewards, of each reward term in its group, or (``whiten``)
their own."""
KlPlace = Literal["loss", "reward"]
"""Where the KL to the anchor goes: beside the surrogate, or into what the surrogate is to raise."""
Correction = Literal["none", "truncate", "mask"]
"""What becomes of the learner's policy over the sampler's as a weight: there is none, bounded, 0 beyond bounds."""
CorrectionLevel = Literal["token", "sequence"]
"""What that weight is of: each token alone, or a whole completion (the product of its tokens')."""
Name = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce++", "reinforce++-baseline", "ppo"]


@dataclass(frozen=True)
class Algorithm:
    """What an algorithm is made of, and the settings that go with it unless the user says otherwise."""

    aggregate: Aggregate
    surrogate: Surrogate = "clip"
    ratio: Ratio = "token"
    baseline: Baseline = "group"
    scales: tuple[Scale, ...] = ("group", "batch", "character", "terms", "whiten", "none")
    """The scales that its baseline goes with; the first is the default."""
    clip: tuple[float, float] = (0.2, 0.28)
    """Defaults of ``rl.clip_low`` and ``rl.clip_high``."""
    kl: KlPlace = "loss"
    """Default of ``rl.kl.in``."""
    critic: bool = False
    """Whether advantages come from a critic's values, token by token."""

    @property
    def least_group(self) -> int:
        """The smallest group it can learn from: a baseline of the group needs something to compare with."""
        return 1 if self.baseline == "none" else 2

    def defaults(self) -> dict[str, Any]:
        """The keys of ``rl`` whose defaults are the algorithm's own."""
        own = {"advantage_scale": self.scales[0], "clip_low": self.clip[0], "clip_high": self.clip[1]}
        return own | {"kl": {"in": self.kl}}


ALGORITHMS: dict[Name, Algorithm] = {
    "grpo": Algorithm("grpo"),  # arXiv 2402.03300, section 4.1, with DAPO's clip-higher
    "dr_grpo": Algorithm("dr_grpo"),  # arXiv 2503.20783, section 3.1; the paper's own advantage_scale is none
    "dapo": Algorithm("token"),  # arXiv 2503.14476, sections 3.1 and 3.3
    "gspo": Algorithm("grpo", ratio="sequence", clip=(3e-4, 4e-4)),  # arXiv 2507.18071, sections 4.1 and 5.1
    # arXiv 2506.13585, section 3.1: no lower bound; the upper one, 5, is that of arXiv 2510.13786.
    "cispo": Algorithm("token", surrogate="cispo", clip=(1.0, 4.0)),
    # arXiv 2402.14740, section 3. Dividing by the group's deviation would make it GRPO, up to a constant.
    "rloo": Algorithm(
        "grpo",
        ratio="trajectory",
        baseline="leave_one_out",
        scales=("none", "whiten"),
        clip=(0.2, 0.2),
        kl="reward",
    ),
    # arXiv 2501.03262. Without a baseline, whitening is what centres.
    "reinforce++": Algorithm("grpo", baseline="none", scales=("whiten",), clip=(0.2, 0.2), kl="reward"),
    "reinforce++-baseline": Algorithm("grpo", scales=("whiten",), clip=(0.2, 0.2)),
    # arXiv 1707.06347, eq. 7, with GAE (1506.02438) and InstructGPT's KL at tokens (2203.02155, eq. 2).
    "ppo": Algorithm("token", baseline="none", scales=("whiten", "none"), clip=(0.2, 0.2), kl="reward", critic=True),
}
