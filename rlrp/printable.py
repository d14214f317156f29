"""Text from cards, chats and models on a terminal."""


def printable(text: str) -> str:
    """The text without control characters, as long as before: it must not move the cursor or colour the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)
