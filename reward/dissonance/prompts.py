"""What the user asked for: some requests are rightly answered like an encyclopaedia or an assistant."""

from __future__ import annotations

import re
from typing import Literal

from rlrp.dialogue import Sample

Request = Literal["self_introduction", "task", "chat"]

_LIFE_EN = "life|past|background|childhood|origins?|career|history"
_LIFE_ZH = "生平|身世|经历|背景|来历|过去|身份|故事|成就|家乡"
_INTRODUCTION = (
    r"自我介绍|介绍(?:一?下)?[你您]自己",
    rf"(?:说说|讲讲|谈谈|聊聊|介绍)(?:一?下)?[你您]的?(?:{_LIFE_ZH})",
    r"[你您](?:的(?:全名|本名|生平|出身|身世|来历|职业|身份)|到底|究竟)?是(?:谁|什么人|何人|何方神圣)",
    r"[你您](?:叫什么|姓甚名谁|是哪里人|出生在|生于|哪年|来自哪)",
    r"\b(?:introduce yourself|tell me (?:\w+ ){0,3}about yourself|your life story)\b",
    rf"\btell me about your (?:{_LIFE_EN})\b",
    r"\bwho (?:exactly )?are you\b|\bwhere (?:were you born|are you from|do you come from)\b|\bwhen were you born\b",
    r"\bwhat (?:is|was) your (?:background|full name|life story|occupation|profession|job)\b",
    r"\bwhat do you do for a living\b",
)
_TASK = (
    r"```|[\d.]+\s*[-+*/×÷]\s*[\d.]+",
    r"写(?:一?[段个篇份])?[^，。！？]{0,12}(?:代码|程序|函数|脚本|作文|文章|论文|总结|摘要|邮件|报告)",
    r"翻译(?:成|一?下|这)|(?:计算|求解|解方程|证明)[^，。]{0,20}[\d=x]",
    r"(?:总结|概括|归纳)(?:一?下)?(?:这|以下|下面|上文)|列出[^，。！？]{0,12}(?:[个条种点]|清单)",
    r"(?:什么是|解释(?:一?下)?)[^，。！？你我他]{2,16}(?:原理|定理|概念|定义|区别|含义)",
    r"\bwrite (?:me )?(?:an?|some|the) (?:\w+ ){0,3}(?:code|function|program|script)\b",
    r"\bwrite (?:me )?(?:an?|some|the) (?:\w+ ){0,3}(?:essay|email|report|summary|article)\b",
    r"\b(?:translate|summari[sz]e|solve|calculate|compute|python|javascript|sql)\b|\blist (?:\w+ )?\d+\b",
    r"\bexplain (?:the (?:concept|difference|theory)|how to)\b|\bhow many (?:\w+ )?(?:are there in|in a)\b",
    r"\bwhat is the (?:capital|definition|formula|square root|derivative)\b",
)
_IS_INTRODUCTION = re.compile("|".join(_INTRODUCTION), re.IGNORECASE)
_IS_TASK = re.compile("|".join(_TASK), re.IGNORECASE)


def classify(text: str) -> Request:
    """What a user's message asks for: facts about the character, a general task, or neither (chat).

    The prompt is classified and never the reply, which would let the policy declare itself excused.
    """
    if _IS_TASK.search(text):
        return "task"
    return "self_introduction" if _IS_INTRODUCTION.search(text) else "chat"


def request_of(sample: Sample) -> Request:
    """:func:`classify` of the last user message; chat when there is none."""
    last = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
    return classify(last)
