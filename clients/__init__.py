"""The other end of the service's wires, for programs: async iterators that reconnect and resume."""
