"""From ``rl.episodes`` to what rollout actors get, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import CHATML, byte_tokenizer

from rlrp.cards import CharacterCard
from rlrp.config import Config, EpisodesConfig, UserConfig, dump_config, load_config
from rlrp.dialogue import UserPrompt
from rlrp.errors import UserError
from rlrp.lm.chat import ChatFormat
from rlrp.runtime.users import Script, UserModel
from rlrp.stages.episodes import episode_settings
from rlrp.stages.rl import PromptOrder, check_context, learner_settings

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "episodes.yaml"
TALK = '{"id": "a", "text": "who are you", "then": ["really?", "prove it"]}\n{"id": "b", "text": "rain again"}\n'


def configured(tmp_path: Path, episodes: str) -> Config:
    path = tmp_path / "mine.yaml"
    path.write_text(f"rl: {{max_new_tokens: 20, episodes: {episodes}}}\n", encoding="utf-8")
    return load_config(path)


def script_file(tmp_path: Path, text: str = TALK) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_script_is_read_once_by_the_driver(tmp_path: Path) -> None:
    config = configured(tmp_path, f"{{turns: 3, user: {{script: {script_file(tmp_path)}}}}}")
    settings = episode_settings(config)
    assert settings is not None and (settings.turns, settings.judge) == (3, "last")
    entries = (UserPrompt("a", "", "who are you", ("really?", "prove it")), UserPrompt("b", "", "rain again"))
    assert settings.user == Script(entries, config.seed)
    assert episode_settings(Config()) is None


def test_a_models_personas_are_read_by_language(tmp_path: Path, tiny_folder: str) -> None:
    own = tmp_path / "me.txt"
    own.write_text("You are {{user}}.\nShy.\n\n  \nYou are loud.\n\n", encoding="utf-8")
    user = f"{{model: {tiny_folder}, personas: {own}, temperature: 0, max_new_tokens: 9}}"
    settings = episode_settings(configured(tmp_path, f"{{turns: 2, judge: every, user: {user}}}"))
    texts = ("You are {{user}}.\nShy.", "You are loud.")
    assert settings is not None and settings.judge == "every"
    assert settings.user == UserModel(tiny_folder, {"en": texts, "zh": texts}, None, 0.0, 9, 0)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ("{turns: 1, user: {script: x}}", "rl.episodes.turns: got 1"),
        ("{turns: 2}", "rl.episodes.user: .*Field required"),
        ("{turns: 2, user: {}}", "rl.episodes.user: got neither, expected one of script and model"),
        ("{turns: 2, user: {script: x, model: y}}", "rl.episodes.user: got both"),
        ("{turns: 2, user: {script: x, temperature: 0.5}}", "temperature is a user model's"),
        ("{turns: 2, user: {script: x, personas: y}}", "personas is a user model's"),
        ("{turns: 2, user: {script: x}, judge: first}", "rl.episodes.judge: got 'first'"),
        ("{turns: 2, user: {scirpt: x}}", "did you mean 'script'"),
    ],
)
def test_wrong_settings_are_refused_on_load(tmp_path: Path, episodes: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, episodes)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"text": "a", "then": "b"}', "line 1, then", "expected a list of texts"),
        ('{"text": "a", "then": ["b", 3]}', "line 1, then 2", "expected text"),
        ('{"text": "a", "then": ["b", " "]}', "line 1, then 2", "is empty"),
    ],
)
def test_a_wrong_script_is_refused_with_its_line(tmp_path: Path, text: str, place: str, message: str) -> None:
    config = configured(tmp_path, f"{{turns: 3, user: {{script: {script_file(tmp_path, text)}}}}}")
    with pytest.raises(UserError, match=message) as error:
        episode_settings(config)
    assert error.value.place == place


def test_a_file_without_personas_is_refused(tmp_path: Path, tiny_folder: str) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n", encoding="utf-8")
    config = configured(tmp_path, f"{{turns: 2, user: {{model: {tiny_folder}, personas: {tmp_path / 'empty.txt'}}}}}")
    with pytest.raises(UserError, match="holds no persona"):
        episode_settings(config)


def test_the_resolved_settings_load_again(tmp_path: Path) -> None:
    for user in (UserConfig(script="s.jsonl"), UserConfig(model="m", temperature=0.2)):
        config = Config()
        config = config.model_copy(
            update={"rl": config.rl.model_copy(update={"episodes": EpisodesConfig(turns=2, user=user)})}
        )
        (tmp_path / "resolved.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "resolved.yaml") == config


def test_the_context_must_hold_all_turns(tmp_path: Path) -> None:
    chat = ChatFormat(byte_tokenizer(CHATML))
    cards = {"ada": CharacterCard(name="Ada", description="A clockmaker.")}
    order = PromptOrder(chat, cards, [UserPrompt("a", "", "hello")], seed=0)
    prompt = len(order(0).ids)
    episodes = episode_settings(configured(tmp_path, f"{{turns: 3, user: {{script: {script_file(tmp_path)}}}}}"))
    # Three replies of 20, and twice the longest line with what the template puts around it.
    room = 3 * 20 + 2 * len(chat.encode_turn(["system", "user", "assistant"], "who are you"))
    check_context(order, 1, 20, prompt + room, episodes)
    with pytest.raises(UserError, match=f"with 3 turns of {room} tokens in all it exceeds"):
        check_context(order, 1, 20, prompt + room - 1, episodes)
    check_context(order, 1, 20, prompt + 20)


def test_the_longest_completion_is_all_turns() -> None:
    config = load_config(EXPERIMENT)
    # What dr_grpo divides by: three replies of 64.
    assert learner_settings(config, "m").max_new_tokens == 192
    plain = config.model_copy(update={"rl": config.rl.model_copy(update={"episodes": None})})
    assert learner_settings(plain, "m").max_new_tokens == 64


def test_the_shipped_experiment_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    from rlrp.plan import print_train_plan

    print_train_plan(load_config(EXPERIMENT))
    out = capsys.readouterr().out
    assert "each the first of at most 3 in a conversation with packaged:smollm2-135m-instruct" in out
    # 3 replies of 64, and 2 lines of 32 with 10 tokens around each.
    assert "at most 276 a conversation" in out
    print_train_plan(load_config(EXPERIMENT, ["rl.episodes.user={script: builtin:talks/en.jsonl}"]))
    assert "with a script (builtin:talks/en.jsonl)" in capsys.readouterr().out


def test_a_user_model_counts_in_the_rollout_actors_memory(tiny_folder: str) -> None:
    from rlrp.estimates import memory_estimates

    config = Config(model=tiny_folder)
    episodes = EpisodesConfig(turns=2, user=UserConfig(model=tiny_folder))
    talking = config.model_copy(update={"rl": config.rl.model_copy(update={"episodes": episodes})})
    parts = memory_estimates(talking)["rollout"].parts
    # The same tiny model twice, in float32: once for the policy, once for the user.
    assert parts["user model"] == parts["weights"] > 0
    assert "user model" not in memory_estimates(config)["rollout"].parts
