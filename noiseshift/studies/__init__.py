"""One file a command: what a study does from end to end, and the folder that it leaves."""
