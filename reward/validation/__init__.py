"""How far a reward can be trusted: measured on people's ratings, matched pairs, hard cases, and against its own use."""
