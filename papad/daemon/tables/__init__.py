"""What the daemon holds: sockets, values, processes. May import durable, output and nursery."""
