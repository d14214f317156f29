"""What ``reward.yaml`` may say of each term, and how the term is made from it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reward.hub import HUB, located
from reward.totals import Gate, Normalise, TermSettings
from rlrp.errors import UserError
from rlrp.protocols import RewardTerm

if TYPE_CHECKING:
    from reward.dissonance.scorer import Scorer

DEFAULT_WEIGHTS: dict[str, float] = {
    "in_character": 1.0,
    "dissonance": 0.5,
    "blacklist": 0.5,
    "length": 0.3,
    "repetition": 0.5,
    "speaks_for_user": 0.3,
    "judge": 0.0,
}
"""Terms lie in [0, 1] or [-1, 0]; a fault that every reader sees costs half of what being in character is worth."""
DEFAULT_GATES: dict[str, dict[str, float]] = {"blacklist": {"below": -0.4, "cap": 0.0}}
"""An assistant's phrase is never paid for, however good the rest of the reply is."""

Share = Annotated[float, Field(ge=0, lt=1)]
Band = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class GateConfig(_Strict):
    """A veto: where the term's value is below ``below``, the total is at most ``cap``."""

    below: float
    cap: float


class TermConfig(_Strict):
    """What every term has: its weight (0: logged only), and how it enters the total.

    ``normalise``: ``none``, or deviations in standard deviations from the mean of the ``group`` (replies to the same
    prompt), of the ``character`` (all its replies of the training step) or of everything judged before (``running``).
    """

    weight: float
    neutral: float = 0.0
    normalise: Normalise = "none"
    gate: GateConfig | None = None

    def settings(self) -> TermSettings:
        gate = Gate(self.gate.below, self.gate.cap) if self.gate else None
        return TermSettings(neutral=self.neutral, normalise=self.normalise, gate=gate)

    def build(self, name: str, folder: Path) -> RewardTerm:
        """The term; paths are relative to ``folder``, that of the YAML file."""
        raise NotImplementedError

    def files(self, folder: Path) -> list[Path]:
        """The user's files that the term's values depend on."""
        return []


class InCharacterConfig(TermConfig):
    """``model``: the classifier's directory."""

    model: str

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.in_character import InCharacterTerm

        return InCharacterTerm.load(located(self.model, folder))

    def files(self, folder: Path) -> list[Path]:
        return _model_files(located(self.model, folder))


class JudgeConfig(TermConfig):
    """``model``: the judge's directory. Its weight is 0: what is optimised no longer judges."""

    weight: Annotated[float, Field(ge=0, le=0)] = 0.0
    gate: None = None
    model: str

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.judge import JudgeTerm

        return JudgeTerm.load(located(self.model, folder))

    def files(self, folder: Path) -> list[Path]:
        return _model_files(located(self.model, folder))


class ScorerConfig(_Strict):
    """Frozen language models that read the two registers: ``model`` alone under two framings, or ``model`` (a role-play
    checkpoint) against the ``assistant`` that it was tuned from."""

    model: str
    assistant: str | None = None
    accept_terms: bool = False


class DissonanceConfig(TermConfig):
    """``weights``: a file of fitted weights in place of the shipped one; ``soften``: see the term; ``scorer``: language
    models, in place of the lite score alone."""

    weights: str | None = None
    soften: Annotated[float, Field(ge=0, le=1)] = 0.3
    scorer: ScorerConfig | None = None

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.dissonance.score import DissonanceTerm

        weights = folder / self.weights if self.weights else None
        return DissonanceTerm(weights=weights, soften=self.soften, scorer=self._scorer(folder))

    def _scorer(self, folder: Path) -> Scorer | None:
        if self.scorer is None:
            return None
        from reward.dissonance.neural import NeuralScorer

        own = self.scorer
        assistant = own.assistant and _model_at(folder, own.assistant)
        return NeuralScorer(_model_at(folder, own.model), assistant, accept_terms=own.accept_terms)

    def files(self, folder: Path) -> list[Path]:
        found = [folder / self.weights] if self.weights else []
        for spec in (self.scorer.model, self.scorer.assistant) if self.scorer else ():
            if spec and (folder / spec).is_dir():
                found += [path for path in sorted((folder / spec).glob("*.safetensors"))]
        return found


class BlacklistConfig(TermConfig):
    """``lists``: files in place of the shipped ones; ``languages``: which entries are used."""

    lists: list[str] | None = None
    languages: list[Literal["en", "zh"]] = ["en", "zh"]

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.blacklist import BlacklistTerm

        lists = None if self.lists is None else [folder / path for path in self.lists]
        return BlacklistTerm(lists=lists, languages=self.languages)

    def files(self, folder: Path) -> list[Path]:
        return [folder / path for path in self.lists or ()]


class PeopleConfig(TermConfig):
    """``model``: the directory of a model of people's ratings; ``aspect``: which of its aspects."""

    model: str
    aspect: str = "overall"

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.model_files import CONFIG
        from reward.people.model import PeopleTerm, shared_people

        path = located(self.model, folder)
        stamp = (path / CONFIG).stat().st_mtime_ns if (path / CONFIG).is_file() else 0
        return PeopleTerm(shared_people(str(path), stamp), self.aspect)

    def files(self, folder: Path) -> list[Path]:
        return _model_files(located(self.model, folder))


class LengthConfig(TermConfig):
    """The bands in words (Chinese: characters), and how soon a longer reply costs everything; ``per_card``: the band
    of a card with at least three replies of its own (greetings, example lines) comes from these."""

    en: Band | None = None
    zh: Band | None = None
    softness: Annotated[float, Field(gt=0)] = 1.0
    unfinished: Annotated[float, Field(ge=0, le=1)] = 0.5
    per_card: bool = False

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.guards import LengthTerm

        bands = {key: band for key, band in (("en", self.en), ("zh", self.zh)) if band is not None}
        return LengthTerm(**bands, softness=self.softness, unfinished=self.unfinished, per_card=self.per_card)


class RepetitionConfig(TermConfig):
    """``free``: the share of n-grams that costs nothing, for within, earlier and card."""

    free: dict[Literal["within", "earlier", "card"], Share] = Field(default_factory=dict)

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.guards import RepetitionTerm

        return RepetitionTerm(free={str(key): share for key, share in self.free.items()})


class SpeaksForUserConfig(TermConfig):
    """No options of its own."""

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.guards import SpeaksForUserTerm

        return SpeaksForUserTerm()


class SceneConfig(TermConfig):
    """``enough``: how many of act, question, detail and novelty (each up to 1) a reply must have."""

    enough: Annotated[float, Field(gt=0, le=4)] = 1.5

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.scene import SceneTerm

        return SceneTerm(enough=self.enough)


class OverCooperationConfig(TermConfig):
    """No options of its own."""

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.over_cooperation import OverCooperationTerm

        return OverCooperationTerm()


class CopiesCardConfig(TermConfig):
    """``free``: the share of the reply that may lie in runs copied from the card."""

    free: Share = 0.2

    def build(self, name: str, folder: Path) -> RewardTerm:
        from reward.copies_card import CopiesCardTerm

        return CopiesCardTerm(free=self.free)


class OwnTermConfig(TermConfig):
    """A user's own term: ``class: module:Class``, called with ``options``."""

    class_: Annotated[str, Field(alias="class", pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field(default_factory=dict)

    def build(self, name: str, folder: Path) -> RewardTerm:
        term = _imported(self.class_, folder)(**self.options)
        if not callable(getattr(term, "score", None)):
            raise UserError(f"{self.class_} has no method score(samples)")
        term.name = name
        return term  # type: ignore[no-any-return]


BUILT_IN: dict[str, type[TermConfig]] = {
    "in_character": InCharacterConfig,
    "dissonance": DissonanceConfig,
    "blacklist": BlacklistConfig,
    "length": LengthConfig,
    "repetition": RepetitionConfig,
    "speaks_for_user": SpeaksForUserConfig,
    "judge": JudgeConfig,
    "people": PeopleConfig,
    "scene": SceneConfig,
    "over_cooperation": OverCooperationConfig,
    "copies_card": CopiesCardConfig,
}
"""A reward has the terms that its file names; :data:`DEFAULT_WEIGHTS` are those that a trained one gets by itself."""


def config_class(name: str) -> type[TermConfig] | None:
    """What a term's options must be: of the built-in term ``NAME`` for ``NAME`` and ``NAME.LABEL``, which is how one
    is used twice; None for any other name."""
    return BUILT_IN.get(name.partition(".")[0])


def _model_at(folder: Path, spec: str) -> str:
    """A directory beside the YAML file or on the hub, or whatever else names a model."""
    return str(located(spec, folder)) if spec.startswith(HUB) or (folder / spec).is_dir() else spec


def _model_files(folder: Path) -> list[Path]:
    from reward.model_files import CONFIG, TENSORS, VOCABULARY

    return [folder / name for name in (CONFIG, TENSORS, VOCABULARY)]


def _imported(spec: str, folder: Path) -> Any:
    """The class ``module:Class``; the YAML file's own folder is searched last."""
    module_name, class_name = spec.split(":")
    sys.path.append(str(folder.absolute()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import {module_name!r}: {error}", place="class") from error
    finally:
        sys.path.remove(str(folder.absolute()))
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise UserError(f"{module_name} has no class {class_name!r}", place="class")
    return found
