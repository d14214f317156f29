"""How well a reply survives having its "I" replaced by the character's name: a sign that nobody is speaking."""
