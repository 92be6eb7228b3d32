"""What the watch is made of: the call it sees, running statistics, the path of a change, leaks, names of faults."""
