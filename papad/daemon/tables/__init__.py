"""What papad holds: sockets, values, processes. May import durable, output and nursery."""
