"""Multi-turn episodes: a simulated user talks with the policy, and the whole conversation is one completion.

Its ids are all that follows the first prompt: a reply as it was sampled, what the chat template puts between turns with
the user's line, the next reply, ... No reply is ever tokenised again, and the policy meets in every turn the ids that
the learner will: only the policy's own are trained on.

An episode has at most ``turns`` replies. It ends early with a reply that was broken off at ``max_new_tokens``, since no
template renders what would follow a turn that has no end; when the user has nothing more to say; and when the model's
context might not hold another turn. So the completions of a group can have different numbers of turns. A reply that
ended with another stop token than the template's keeps it in that one's place.

Left out: a card's instructions after the history stay where the first prompt has them, after its user's line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlrp.dialogue import Message, Role
from rlrp.lm.chat import ChatFormat
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings, Turn
from rlrp.runtime.users import Samples, Script, Talk, User, UserModel, derived_seed

Judged = Literal["last", "every"]


@dataclass(frozen=True)
class EpisodeSettings:
    """At most ``turns`` replies to a user, and which of them the reward is asked about."""

    turns: int
    user: Script | UserModel
    judge: Judged = "last"


def most_tokens(settings: EpisodeSettings, chat: ChatFormat, max_new_tokens: int) -> int:
    """The longest completion that an episode can be, in the policy's tokens; a user model's are taken for as many."""
    user = settings.user
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    if isinstance(user, Script):
        longest = max(len(chat.encode_turn(roles, line)) for e in user.entries for line in (e.text, *e.then))
    else:
        longest = len(chat.encode_turn(roles, "")) + user.max_new_tokens
    return settings.turns * max_new_tokens + (settings.turns - 1) * longest


class Episodes:
    """Plays episodes with an engine that samples for the policy; itself such an engine, of whole conversations.

    What is said in an episode is a function of the completion's seed and the turn, whatever else is sampled with it.
    """

    def __init__(self, turns: int, judge: Judged, engine: Samples, chat: ChatFormat, context: int, user: User):
        self.turns, self.judge = turns, judge
        self.engine, self.chat, self.context, self.user = engine, chat, context, user

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        """An episode for every seed of every request, whose ``source`` must be there."""
        groups = [[_Episode(request, seed) for seed in request.seeds] for request in requests]
        for group, replies in zip(groups, self.engine.sample(requests, settings), strict=True):
            for episode, reply in zip(group, replies, strict=True):
                episode.add(reply)
        episodes = [episode for group in groups for episode in group]
        for turn in range(1, self.turns):
            episodes = self._asked(episodes, settings.max_new_tokens)
            if not episodes:
                break
            further = [SampleRequest(e.so_far, (derived_seed(e.talk.seed, "policy", turn),)) for e in episodes]
            for episode, (reply,) in zip(episodes, self.engine.sample(further, settings), strict=True):
                episode.add(reply)
        return [[episode.completion(self.judge) for episode in group] for group in groups]

    def _asked(self, episodes: Sequence[_Episode], max_new_tokens: int) -> list[_Episode]:
        """Those of the episodes that go on, with the user's next line in them."""
        ended = [episode for episode in episodes if episode.ids[-1] in self.chat.stop_ids]
        going = []
        for episode, line in zip(ended, self.user.answer([e.talk for e in ended]) if ended else [], strict=True):
            if not line.strip():
                continue
            ids = self.chat.encode_turn(episode.roles, line)
            if len(episode.so_far) + len(ids) + max_new_tokens <= self.context:
                episode.ask(line, ids)
                going.append(episode)
        return going


class _Episode:
    """One conversation in the making."""

    def __init__(self, request: SampleRequest, seed: int):
        if request.source is None:
            raise ValueError("an episode needs the prompt that its ids were made of, got a request without a source")
        self.prompt = request.prompt
        self.talk = Talk(request.source, seed)
        self.line = ""
        self.ids: tuple[int, ...] = ()
        self.logps: tuple[float, ...] = ()
        self.spoken: tuple[bool, ...] = ()
        self.replies: list[Completion] = []
        self.turns: list[Turn] = []

    @property
    def so_far(self) -> tuple[int, ...]:
        """The policy's tokens, from the first prompt on."""
        return self.prompt + self.ids

    @property
    def roles(self) -> list[Role]:
        return ["system", *(message.role for message in self.talk.said)]

    def add(self, reply: Completion) -> None:
        """The policy's next reply."""
        self._extend(reply.ids, reply.logps, spoken=True)
        self.replies.append(reply)
        self.turns.append(Turn(self.line, reply.text, reply.finish == "stop", len(self.ids)))
        self.talk.said.append(Message("assistant", reply.text))

    def ask(self, line: str, ids: Sequence[int]) -> None:
        """The user's next line, as the ids from the end of the reply before it to the opening of the next."""
        self._extend(ids, [0.0] * len(ids), spoken=False)
        self.line = line.strip()
        self.talk.said.append(Message("user", self.line))

    def completion(self, judge: Judged) -> Completion:
        last = len(self.turns) - 1
        turns = (replace(turn, judged=judge == "every" or at == last) for at, turn in enumerate(self.turns))
        return Completion(
            self.ids,
            self.logps,
            self.replies[-1].text,
            self.replies[-1].finish,
            any(reply.truncated for reply in self.replies),
            self.spoken,
            tuple(turns),
        )

    def _extend(self, ids: Sequence[int], logps: Sequence[float], *, spoken: bool) -> None:
        self.ids += tuple(ids)
        self.logps += tuple(logps)
        self.spoken += (spoken,) * len(ids)
