"""What people would give a reply: a reward learnt from their ratings."""
