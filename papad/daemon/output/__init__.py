"""The output of processes: from pipes into rings, and on to the journal. May import durable."""
