"""Answer streams: the active ones, their buffers, events, readers and replication."""
