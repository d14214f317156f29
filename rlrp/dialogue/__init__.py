"""Messages and dialogues, readers of their files, and the training mixture."""

from rlrp.dialogue.cleaning import drop_uninformative, near_duplicates
from rlrp.dialogue.items import Contrast, UserPrompt, read_contrasts, read_prompts
from rlrp.dialogue.mixture import MixturePlan, mix, plan_mixture
from rlrp.dialogue.pool import Pool, load_pool
from rlrp.dialogue.readers import read_dialogues, write_dialogues
from rlrp.dialogue.sources import resolve
from rlrp.dialogue.types import Dialogue, Message, Role, Sample

__all__ = [
    "Contrast",
    "Dialogue",
    "Message",
    "MixturePlan",
    "Pool",
    "Role",
    "Sample",
    "UserPrompt",
    "drop_uninformative",
    "load_pool",
    "mix",
    "near_duplicates",
    "plan_mixture",
    "read_contrasts",
    "read_dialogues",
    "read_prompts",
    "resolve",
    "write_dialogues",
]
