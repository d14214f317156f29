"""Messages and dialogues, readers of their files, and the training mixture."""

from rlrp.dialogue.types import Dialogue, Message, Role, Sample

__all__ = ["Dialogue", "Message", "Role", "Sample"]
