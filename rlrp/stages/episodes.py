"""From the configuration to what rollout actors need to play episodes: files are read here, once."""

from __future__ import annotations

import re
from pathlib import Path

from rlrp.cards import Language
from rlrp.config import Config, UserConfig
from rlrp.dialogue import read_prompts, resolve
from rlrp.errors import UserError
from rlrp.files import read_text
from rlrp.lm.load import resolve_model
from rlrp.runtime.episodes import EpisodeSettings
from rlrp.runtime.users import Script, UserModel

_LANGUAGES: tuple[Language, ...] = ("en", "zh")


def episode_settings(config: Config) -> EpisodeSettings | None:
    """The episodes that ``rl.episodes`` asks for, if any.

    Raises:
        UserError: no such script, personas or model.
    """
    episodes = config.rl.episodes
    if episodes is None:
        return None
    user = episodes.user
    if user.script is not None:
        return EpisodeSettings(
            episodes.turns, Script(tuple(read_prompts(resolve(user.script))), config.seed), episodes.judge
        )
    assert user.model is not None  # a script or a model, says the configuration
    # Fetched here, where terms can be accepted, and found again by the actors.
    resolve_model(user.model, accept_terms=config.accept_terms)
    model = str(Path(user.model).absolute()) if Path(user.model).exists() else user.model
    played = UserModel(model, personas(user), user.chat_template, user.temperature, user.max_new_tokens, config.seed)
    return EpisodeSettings(episodes.turns, played, episodes.judge)


def personas(user: UserConfig) -> dict[Language, tuple[str, ...]]:
    """Who a user model may be, by language."""
    return {language: _paragraphs(resolve(user.personas or f"builtin:users/{language}.txt")) for language in _LANGUAGES}


def _paragraphs(path: Path) -> tuple[str, ...]:
    found = tuple(part.strip() for part in re.split(r"\n\s*\n", read_text(path)) if part.strip())
    if not found:
        raise UserError("holds no persona; write a paragraph for each", file=path)
    return found
