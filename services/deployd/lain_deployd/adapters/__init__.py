"""Foreign systems behind our own nouns; their exceptions end here."""
