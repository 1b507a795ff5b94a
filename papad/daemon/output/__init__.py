"""What processes print: from their pipes into rings, and on to the journal. May import durable."""
