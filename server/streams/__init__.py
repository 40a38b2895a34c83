"""Answer streams under way, with their events, buffers, readers and replication through Redis."""
