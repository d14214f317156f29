from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from rlrp.evaluation.comparison import compare, compare_policies
from rlrp.evaluation.report import headline, render_report, write_report

from .made import evaluation, flat, reply

NASTY = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x07{{ 7*7 }}"
_VOID = {"meta", "br", "img", "input", "link", "hr"}


class _Page(HTMLParser):
    """The tags and attributes a browser would see; fails on tags that do not nest."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _three(judge: float = 0.7):
    units = [
        {"composite": flat(v), "judge": flat(v), "general_exact": {"q1": 1.0, "q2": 1.0}} for v in (0.1, 0.5, judge)
    ]
    policies = [evaluation(name, unit) for name, unit in zip(("b", "s", "r"), units, strict=True)]
    return compare(*policies, seconds={"sft": 61, "rl": 7300.0}, peak_memory_gb=3.21, settings={"rl": {"seed": 11}})


def _samples():
    reasons = {"blacklist": ('blacklist: "As an AI" (ai_identity)',)}
    return {
        "base": [reply("ahab", "As an AI model I cannot.", reasons=reasons, terms={"blacklist": -0.5})],
        "sft": [reply("ahab", "Aye.", terms={"blacklist": 0.0})],
        "rl": [reply("ahab", "（望海）白鲸在前。", terms={"blacklist": None})],
    }


def test_the_page_needs_nothing_from_outside():
    page = render_report(_three(), [{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}], _samples(), title="Demo")
    parsed = _Page(page)
    assert not {"img", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page


def test_only_our_script_may_run():
    page = render_report(_three(), [], _samples(), title="Demo")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in _Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_no_text_of_models_cards_or_files_is_markup():
    units = {name: {"judge": flat(1.0), NASTY: flat(2.0)} for name in ("one" + NASTY, "two" + NASTY)}
    policies = [evaluation(name, unit, settings={NASTY: NASTY}) for name, unit in units.items()]
    comparison = compare_policies(policies, settings={NASTY: {"seed": NASTY}})
    turns = ({"role": NASTY, "content": NASTY}, {"role": "user", "content": NASTY})
    samples = {
        name: [reply(NASTY, NASTY, suite=s + NASTY, prompt=turns, terms={NASTY: 1.0, "blacklist": 0.0},
                     reasons={NASTY: (NASTY,), "blacklist": (f'blacklist: "{NASTY}" ({NASTY})', f'"alert" ({NASTY})')})
               for s in ("1", "2")]
        for name in units
    }  # fmt: skip
    page = render_report(comparison, [{"step": 1, f"reward/{NASTY}": 0.1}], samples, title=NASTY)
    parsed = _Page(page)
    assert len(parsed.all("script")) == 1 and not parsed.all("img")
    assert not [a for _, a in parsed.tags for name in a if name.startswith("on")]
    assert page.count("alert(1)") > 20  # it is there, as text
    assert "\u202e" not in page and "\x07" not in page and "⟨U+202E⟩" in page
    assert "{{ 7*7 }}" in page  # and is no template
    assert "alert" in "".join(parsed.text)


def test_failures_stand_above_the_results():
    page = render_report(_three(judge=0.3), [], {}, title="Demo")
    assert page.index("2 goals not met") < page.index('id="results"')
    assert "Judge not lower" in page[: page.index('id="results"')]
    assert "not met" not in render_report(_three(), [], {}, title="Demo")


def test_drawings_are_described_and_tables_have_headers():
    page = render_report(_three(), [{"step": i, "kl": i / 9} for i in range(3)], _samples(), title="Demo")
    parsed = _Page(page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2 + 1 + 1 + 2  # composite and judge, general, one curve, a bar for each of two stages
    for drawing in drawings:
        assert 'aria-hidden="true"' in drawing or ("<title>" in drawing and "<desc>" in drawing)
    assert all(attributes.get("scope") in ("col", "row") for attributes in parsed.all("th"))
    labelled = {a["aria-labelledby"] for a in parsed.all("section")}
    assert labelled <= {a.get("id") for _, a in parsed.tags}


def test_replies_stand_side_by_side_with_marks_terms_and_language():
    page = render_report(_three(), [], _samples(), title="Demo")
    assert '<mark title="blacklisted: ai_identity">As an AI</mark> model' in page
    assert re.search(r'lang="zh"[^>]*>（望海）', page) and re.search(r'lang="en"[^>]*>Aye', page)
    assert "abstained" in page and "−0.50" in page
    assert "1 of 1 sets of replies" in page


def test_what_the_run_took_is_there():
    text = " ".join(" ".join(_Page(render_report(_three(), [], {}, title="Demo")).text).split())
    for expected in ("1 min 01 s", "2 h 01 min", "peak memory 3.2 GB", "run.rl.seed 11", "seed 11", "resamples 10,000"):
        assert expected in text


def test_sections_without_content_are_left_out():
    page = render_report(compare_policies([evaluation(n, {"judge": flat(1.0)}) for n in "ab"]), [], {}, title="Demo")
    assert 'id="replies"' not in page and 'id="training"' not in page and "Wall time" not in page


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([0.1, 0.2], [0.4, 0.6], "RL raises the composite reward by 0.350 over SFT"),
        ([0.4, 0.6], [0.1, 0.2], "RL lowers the composite reward by 0.350 over SFT"),
        ([0.1, 0.2], [0.2, 0.1], "No clear change in the composite reward from SFT to RL"),
        ([0.1], [0.2], "RL against SFT: too few cards for an interval on the composite reward"),
        ([], [], "RL against SFT: the composite reward was not measured for both"),
    ],
)
def test_the_headline_says_what_happened(before, after, words):
    made = [
        evaluation(name, {"composite": {f"c{i}": v for i, v in enumerate(values)}, "judge": flat(1.0)})
        for name, values in (("s", before), ("r", after))
    ]
    assert headline(compare(None, *made), "rl") == words


def test_the_file_is_written_whole_with_text_no_encoding_holds(tmp_path):
    write_report(tmp_path / "run" / "report.html", _three(), [], _samples(), title="a\ud800b 报告")
    assert "a⟨U+D800⟩b 报告" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_on_screen_and_paper():
    page = render_report(_three(), [], {}, title="Demo")
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})\b", block)) for block in re.findall(r":root \{(.*?)\}", page, re.S)
    ]
    assert len(schemes) == 3  # light, dark, printed
    for colours in schemes:
        for ink in ("ink", "soft", "good", "bad", "warn"):
            for paper in ("paper", "surface"):
                assert _contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
        assert _contrast(colours["bad"], colours["bad-paper"]) >= 4.5
        assert _contrast(colours["mark-ink"], colours["mark"]) >= 4.5
