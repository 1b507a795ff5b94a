"""Who gets output, and how far they are: watches, which acknowledge, and readers, which do not. May import tables and below."""
