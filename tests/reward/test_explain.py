"""`rlrp reward explain`: marks in their place, shares that add up, and a terminal that model text cannot reach."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reward.composite import CompositeReward, Gate, TermSettings
from reward.explain import bracketed_reply, explain_file, marked_reply, print_explanation, shares
from rlrp.cards import CharacterCard
from rlrp.cli import main
from rlrp.dialogue import Message, Sample
from rlrp.printable import printable
from rlrp.protocols import TermScore

CARD = CharacterCard("Ada", description="A thief.")
REWARD = "terms:\n  blacklist: {weight: 0.5}\n  length: {weight: 0.25, en: [3, 40]}\n"
ESCAPES = "\x1b[31mred\x1b[0m \x07\x00\r\x9b2J\u202eback"
MARKS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda p: (min(p), max(p))), max_size=4)


@dataclass
class Fixed:
    """A term that always says the same."""

    name: str
    says: TermScore

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        return [self.says for _ in samples]


def composite(*terms: tuple[str, TermScore, float, TermSettings]) -> CompositeReward:
    return CompositeReward([(Fixed(name, says), weight, settings) for name, says, weight, settings in terms])


def sample(reply: str, user: str = "Give it to me.") -> Sample:
    return Sample(CARD, (Message("user", user),), reply)


def shown(reward: CompositeReward, one: Sample, title: str = "s1", *, colours: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=colours, color_system="standard" if colours else None)
    print_explanation(reward, one, title, console=console)
    return stream.getvalue()


def files(folder: Path, *replies: str) -> list[str]:
    (folder / "r.yaml").write_text(REWARD, encoding="utf-8")
    rows = [
        {"id": at, "card": {"name": "Ada"}, "messages": [{"role": "user", "content": "Hello."}], "reply": reply}
        for at, reply in enumerate(replies)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["reward", "explain", "--reward", str(folder / "r.yaml"), "--in", str(folder / "in.jsonl")]


# -- shares --------------------------------------------------------------------------------------------------------


def test_shares_are_of_the_sizes_of_what_terms_add() -> None:
    reward = composite(
        ("logged", TermScore(0.9), 0.0, TermSettings()),
        ("good", TermScore(0.5), 1.0, TermSettings()),
        ("bad", TermScore(-1.0), 1.5, TermSettings()),
        ("silent", TermScore(None), 2.0, TermSettings(neutral=0.25)),
        ("spread", TermScore(0.7), 3.0, TermSettings(normalise="group")),
    )
    judgement = reward.score_one_by_one([sample("Hm.")])[0]
    parts = shares(reward, judgement)
    # contributions 0.5, -1.5, 2 * 0.25 and 0 (a group of one has no deviation); their sizes sum to 2.5
    assert [(part.name, part.contribution, part.share) for part in parts] == [
        ("bad", -1.5, 0.6),
        ("good", 0.5, 0.2),
        ("silent", 0.5, 0.2),
        ("spread", 0.0, 0.0),
        ("logged", 0.0, 0.0),
    ]
    assert sum(part.contribution for part in parts) == pytest.approx(judgement.total) == pytest.approx(-0.5)


def test_a_veto_is_named_where_it_held_the_total_down() -> None:
    gated = TermSettings(gate=Gate(below=-0.4, cap=0.0))
    for value, held in ((-0.5, True), (-0.4, False), (None, False)):
        reward = composite(("blacklist", TermScore(value), 0.1, gated), ("good", TermScore(1.0), 1.0, TermSettings()))
        judgement = reward.score_one_by_one([sample("Hm.")])[0]
        assert {part.name: part.vetoed for part in shares(reward, judgement)} == {"blacklist": held, "good": False}
        text = shown(reward, sample("Hm."))
        assert ("held down from +0.950" in text) is held
        assert ("vetoes" in text) is held


def test_a_reward_that_adds_nothing_has_no_shares() -> None:
    reward = composite(("silent", TermScore(None), 1.0, TermSettings()))
    assert shares(reward, reward.score_one_by_one([sample("Hm.")])[0])[0].share == 0.0
    assert "abstains" in shown(reward, sample("Hm."))


# -- marks ---------------------------------------------------------------------------------------------------------


def test_brackets_stand_around_what_was_found() -> None:
    assert bracketed_reply("As an AI, no.", [(((0, 8),), "blacklist")]) == "⟦As an AI⟧(blacklist), no."
    # Side by side, one in the other, and none.
    assert bracketed_reply("abcd", [(((0, 2), (2, 4)), "x")]) == "⟦ab⟧(x)⟦cd⟧(x)"
    assert bracketed_reply("abcd", [(((0, 4),), "x"), (((1, 2),), "y")]) == "⟦a⟦b⟧(y)cd⟧(x)"
    assert bracketed_reply("abcd", []) == "abcd"
    assert bracketed_reply("", []) == "(empty)"


def test_colours_stand_on_what_was_found_and_the_first_term_wins() -> None:
    text = marked_reply("abcdef", [(((0, 4),), "black on yellow"), (((2, 6),), "white on red")])
    console = Console(color_system="standard", force_terminal=True)
    colours = []
    for at in range(6):
        style = text.get_style_at_offset(console, at)
        colours.append(style.bgcolor.name if style.bgcolor else None)
    assert colours == ["yellow"] * 4 + ["red"] * 2


@given(st.text(min_size=20, max_size=40), MARKS, MARKS)
def test_marks_change_no_text(reply: str, first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    marks = [(first, "one"), (second, "two")]
    assert marked_reply(reply, [(spans, "on red") for spans, _ in marks]).plain == printable(reply)
    bare = bracketed_reply(reply, marks)
    for mark in ("⟧(one)", "⟧(two)", "⟦"):
        bare = bare.replace(mark, "")
    assert bare == printable(reply)


def test_a_phrase_behind_control_characters_is_marked_in_its_place(tmp_path: Path) -> None:
    from reward.config import load_reward

    files(tmp_path)
    reply = f"{ESCAPES}\tI am an AI language model, you know."
    text = shown(load_reward(tmp_path / "r.yaml"), sample(reply))
    start = text.index("⟦")
    assert "language model" in text[start : text.index("⟧(blacklist)")]
    assert "you know." in text


# -- what reaches the terminal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [True, False])
def test_no_control_character_of_anybodys_text_reaches_the_terminal(colours: bool) -> None:
    card = CharacterCard(f"Ada{ESCAPES}", description="A thief.")
    says = TermScore(-1.0, (f'blacklist: "{ESCAPES}"',), spans=((0, 4),))
    reward = composite(("blacklist", says, 1.0, TermSettings()))
    one = Sample(card, (Message("user", f"Ask{ESCAPES}"),), f"Say{ESCAPES}")
    text = shown(reward, one, f"id{ESCAPES}", colours=colours)
    assert text.count("back") == 5  # title, name, question, reply and reason
    assert not set(text) & set("\x00\x07\r\x9b\u202e")
    assert "\x1b[31m" not in text and "\x1b[2J" not in text
    assert colours or "\x1b" not in text


def test_markup_in_replies_and_reasons_is_text() -> None:
    markup = "[bold red]x[/bold red] [/nope] :smile:"
    says = TermScore(-1.0, (f"own: {markup}",))
    text = shown(composite(("own", says, 1.0, TermSettings())), sample(markup, user=markup), markup)
    assert text.count(markup) == 4


@given(st.text())
def test_printable_text_is_as_long_and_has_no_control_characters(text: str) -> None:
    clean = printable(text)
    assert len(clean) == len(text)
    assert all(character in "\n\t" or character.isprintable() for character in clean)
    assert printable(clean) == clean


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_explains_one_sample_by_its_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = files(tmp_path, "Nothing here is yours, go home.", "I am an AI language model, I have no home.")
    assert main([*arguments, "--id", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1  Ada\n> Hello.\n")
    assert "⟧(blacklist)" in out and "go home" not in out


def test_the_command_explains_the_first_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = files(tmp_path, *(f"This is reply number {at}." for at in range(5)))
    for options, count in (([], 3), (["--limit", "2"], 2), (["--limit", "9"], 5)):
        assert main([*arguments, *options]) == 0
        assert capsys.readouterr().out.count("This is reply number") == count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--id", "x\x1b[2J"], r"in.jsonl: no sample has the id 'x\x1b[2J'"),
        (["--limit", "0"], "--limit: got 0, expected at least 1"),
        (["--in", "gone.jsonl"], "gone.jsonl: no such file"),
        (["--in", "gone.parquet"], "gone.parquet: no such file"),
        (["--reward", "gone.yaml"], "gone.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files(tmp_path, "Go away, you."), *options]) == 2
    got = capsys.readouterr()
    assert expected in got.err and got.err.count("\n") == 1
    assert not got.out


def test_a_file_without_samples_is_an_error_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files(tmp_path)) == 2
    assert "no sample in it" in capsys.readouterr().err


def test_a_row_that_is_asked_for_needs_no_good_rows_behind_it(tmp_path: Path) -> None:
    files(tmp_path, "Go away, you.")
    with (tmp_path / "in.jsonl").open("a") as stream:
        stream.write("{oops\n")
    assert explain_file(tmp_path / "r.yaml", tmp_path / "in.jsonl", identifier="0") == 1
