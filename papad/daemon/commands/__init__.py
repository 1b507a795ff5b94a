"""What can be asked of papad: the table of commands, its grammar, what `describe` tells. May import delivery and below."""
