"""Moonshine for Chorus, as somebody else's package: kind.py and training.py are all of it."""
