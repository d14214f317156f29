"""Speaking and acting for the user: the reply writes the other player's lines or narrates what that player does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reward.spans import Span, reply_spans
from rlrp.dialogue import Sample
from rlrp.protocols import TermScore

# A line that opens as the user's turn. 你: and You: count only where a line follows, not "You: a fool?".
_LABEL = r"(?:\{{\{{user\}}\}}|<user>|<\|im_start\|>user|<\|user\|>|\[user\]|user|human|用户|玩家{names})"
_SUBJECT_ADVERBS = r"(?:(?:then|now|slowly|quickly|just|simply|only|finally|silently|quietly|\w+ly|both|can't help but|cannot help but)\s+)*"
# What a body or a mind does: narrating these is playing the user. "You know", "you are late" and the like are talk.
_VERBS_EN = [
    "accept",
    "agree",
    "answer",
    "apologi[sz]e",
    "approach",
    "arrive",
    "ask",
    "back",
    "bite",
    "blink",
    "blush",
    "bow",
    "breathe",
    "brush",
    "burst",
    "call",
    "catch",
    "chuckle",
    "clench",
    "climb",
    "close",
    "collapse",
    "creep",
    "cross",
    "crouch",
    "cry",
    "decide",
    "drop",
    "enter",
    "exhale",
    "fall",
    "feel",
    "find",
    "flinch",
    "follow",
    "frown",
    "gasp",
    "get",
    "giggle",
    "give",
    "glance",
    "grab",
    "grasp",
    "grin",
    "grip",
    "hand",
    "hear",
    "hesitate",
    "hold",
    "hug",
    "inhale",
    "jump",
    "kneel",
    "kiss",
    "laugh",
    "lean",
    "leap",
    "let",
    "lie",
    "lift",
    "look",
    "lower",
    "manage",
    "move",
    "mumble",
    "murmur",
    "mutter",
    "nod",
    "open",
    "pause",
    "pick",
    "pocket",
    "pour",
    "press",
    "promise",
    "pull",
    "push",
    "raise",
    "reach",
    "realize",
    "realise",
    "relax",
    "reply",
    "respond",
    "retreat",
    "return",
    "rise",
    "run",
    "sag",
    "scream",
    "set",
    "shake",
    "shift",
    "shiver",
    "shout",
    "shrug",
    "shudder",
    "shut",
    "sigh",
    "sip",
    "sit",
    "slide",
    "slip",
    "smile",
    "smirk",
    "sob",
    "speak",
    "stagger",
    "stammer",
    "stand",
    "stare",
    "start",
    "startle",
    "step",
    "stumble",
    "swallow",
    "take",
    "tell",
    "thank",
    "throw",
    "tilt",
    "touch",
    "tremble",
    "try",
    "turn",
    "wait",
    "walk",
    "watch",
    "weep",
    "whimper",
    "whisper",
    "wince",
    "wipe",
]
_NARROW_EN = [
    "nod",
    "blush",
    "flinch",
    "gasp",
    "gulp",
    "hesitate",
    "shiver",
    "shudder",
    "sigh",
    "smile",
    "stammer",
    "stumble",
    "swallow",
    "tremble",
    "whimper",
    "whisper",
    "kneel",
    "bow",
    "follow",
    "murmur",
    "mumble",
    "blink",
    "wince",
    "chuckle",
    "giggle",
    "grin",
    "lean",
    "step",
    "back",
    "reply",
    "stand",
    "sit",
    "laugh",
    "burst",
]
_SPEECH_EN = "say|reply|answer|whisper|murmur|mutter|stammer|ask|shout|cry|add|beg|promise|mumble|exclaim|confess|tell"
_SPEECH_ZH = "说|道|问|答|喊|叫|呼|声|嚷|回答|开口|低声|小声|哭着|笑着|嘟囔|喃喃|答应|承认"
_ACTS_ZH = (
    "点点头|点了点头|点头|摇摇头|摇了摇头|摇头|低下头|低着头|抬起头|抬头|笑了笑|笑了|微笑|微微|跟着|跟上|跟在|转身|转过身|"
    "走到|走进|走向|走过|走了|走上|坐下|坐到|坐在|站起|站在|起身|跪|伸手|伸出|握住|握紧|接过|拿起|拿出|拿过|掏出|放下|推开|打开|"
    "拉住|拉着|抱住|抱着|靠在|靠近|扑|退后|后退|退了|退到|愣住|愣了|怔|脸红|红了脸|红着脸|脸上|心里|心中|心头|心跳|眼里|眼中|眼眶|"
    "感到|感觉|觉得|忍不住|不由|不禁|犹豫|决定|沉默|咽|叹|哭|流泪|颤|发抖|浑身|咬|盯着|看着|望着|看向|望向|听完|听了|听到|连忙|赶紧|"
    "立刻|马上|默默|慢慢|缓缓|轻轻|只好|终于|已经被|被"
)
_NARROW_ZH = (
    "点点头|点了点头|摇摇头|摇了摇头|低下头|抬起头|笑了笑|愣住了|愣了一下|红着脸|脸一红|忍不住|不由得|不禁|咽了咽|叹了口气|"
    "沉默了|犹豫了|心中一|吓得|激动得|感激涕零|扑通|猛地|眼圈|鼻子一酸|肩膀|眼泪|痴痴|笑眯眯|擦干|泪流|心里(?:暗暗|只|软|一)|浑身|听了(?:大喜|大惊|一惊|鼻)|心里一|浑身一|转身跟|跟着我走|连忙点头|乖乖地?(?:点|跟|坐|跪)"
)


def _third(verb: str) -> str:
    return verb if "[" in verb else re.escape(verb)


_ACT_EN = re.compile(
    rf"(?:^|[.;!,—…]\s*|\*\s*|\b(?:and|but|then|so)\s+|\n\s*)you\s+{_SUBJECT_ADVERBS}(?:{'|'.join(map(_third, _VERBS_EN))})\b"
    r"(?!\s*\?)|(?:^|[.;!,—…]\s*|\b(?:and|but)\s+)your\s+(?:eyes|heart|hands?|face|cheeks|lips|breath|knees|voice|legs|"
    r"fingers|body|shoulders|jaw|mouth)\s+(?!(?:is|are|was|were|will|would|must|can)\b)[a-z]+(?:s|ed|n)?\b",
    re.IGNORECASE,
)
_STATE_EN = re.compile(
    r"(?:^|[.;!]\s+)you(?:'re|\s+are|\s+feel)\s+(?:too\s+)?(?:stunned|frozen|hungry|overcome|ashamed|"
    r"relieved|convinced|trembling|shaking|speechless|breathless|moved|overwhelmed)\b",
    re.IGNORECASE,
)
_PLAIN_EN = re.compile(
    rf"(?:^|(?<=[.!?…*\"”'’])\s+|\n)you\s+{_SUBJECT_ADVERBS}(?:{'|'.join(_NARROW_EN)})\b[^?!.\n]*[.,*\n]"
    r"|\bas you (?:nod|smile|blush|gasp|hesitate)\b",
    re.IGNORECASE,
)
_QUOTED_EN = re.compile(
    rf"[,.!?…—][\"”'’]\s*(?:you\s+(?:\w+ly\s+)?(?!are\b|were\b|have\b|had\b|said\b|should\b|must\b|can\b|know\b)[a-z]+|says\s+you)\b|\byou\s+(?:\w+ly\s+)?(?:{_SPEECH_EN})(?:\s+\w+){{0,3}}\s*[,:]\s*[\"“'‘]",
    re.IGNORECASE,
)
_ACT_ZH = re.compile(
    rf"(?:^|[，。；！、,;\s*（(]|于是|然后|接着|只见|随后|而)[你您](?:也|便|就|又|还|则|都|才|当即|顿时|于是)?(?:{_ACTS_ZH})"
)
_PLAIN_ZH = re.compile(
    rf"(?:^|[。！\n\s*）)”」]|于是|然后|接着|只见)[你您](?:也|便|就|又|则|顿时)?(?:{_NARROW_ZH})(?![^。！？\n]*[吧吗呢？?！!])"
)
_QUOTED_ZH = re.compile(
    # What the user said before may be quoted back: 你刚才说“…”.
    rf"[你您](?![^。！？\n“「\"]{{0,12}}(?:刚才|方才|刚刚|昨|上次|不是|曾|当年|以前|说过|别|总|老|常|要是|如果))"
    rf"[^。！？\n“「\"他她]{{0,40}}(?:{_SPEECH_ZH})[^。！？\n“「\"]{{0,4}}[：:]\s*[“「\"]"
    rf"|[，。！？…][”」\"]\s*[你您][^，。！？\n我]{{0,6}}(?:{_SPEECH_ZH})"
)


class SpeaksForUserTerm:
    """-1 for writing the user's turn or quoting words into the user's mouth, less for narrating what the user does.

    The value is minus the sum of the findings, at least -1: a line labelled as the user's 1, a quotation given to the
    user 0.7, a narrated act 0.5 inside action spans (narration, in a novel) and 0.4 in unmarked text.
    """

    name = "speaks_for_user"

    def __init__(self, *, user_name: str | None = None):
        """``user_name``: the name the user goes by; a line that opens with it is the user's."""
        names = f"|{re.escape(user_name)}" if user_name else ""
        label = _LABEL.format(names=names)
        self._label = re.compile(
            rf"(?:^|\n)\s*(?:\*\*)?{label}(?:\*\*)?\s*[：:>|](?!//)|\n\s*(?:you|你)\s*[：:]", re.IGNORECASE
        )
        # The user's name as a subject in narration acts like "you".
        self._named = (
            re.compile(rf"(?:^|[.!?。！？*]\s*){re.escape(user_name)}(?:\s+\w+s\b|[点摇低抬笑跟转走坐站])")
            if user_name
            else None
        )

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; part ``weight`` is the sum of the findings before the cap."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        found = self._findings(sample.reply, reply_spans(sample))
        weight = sum(weight for weight, _ in found)
        reasons = tuple(f'speaks_for_user: "{" ".join(text.split())[:60]}"' for _, text in found)
        return TermScore(-min(1.0, weight) if weight else 0.0, reasons, {"weight": weight})

    def _findings(self, reply: str, spans: Sequence[Span]) -> list[tuple[float, str]]:
        outside = "".join(
            reply[s.start : s.end] if s.kind not in ("plan", "ooc") else " " * (s.end - s.start) for s in spans
        )
        found = [(1.0, m.group()) for m in self._label.finditer(outside)]
        found += [(0.7, m.group()) for p in (_QUOTED_EN, _QUOTED_ZH) for m in p.finditer(outside)]
        for span in spans:
            text = reply[span.start : span.end]
            if span.kind == "action":
                inner = text.strip("*()（） \n")
                patterns = [_ACT_EN, _STATE_EN, _ACT_ZH, *([self._named] if self._named else [])]
                found += [(0.5, m.group()) for p in patterns for m in p.finditer(inner)]
            elif span.kind == "speech" and text.lstrip()[:1] not in ('"', "“", "「", "『"):
                found += [(0.4, m.group()) for p in (_PLAIN_EN, _PLAIN_ZH) for m in p.finditer(text)]
        return found
