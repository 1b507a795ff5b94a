"""The commands: their table and grammar, what `describe` tells. May import delivery and below."""
