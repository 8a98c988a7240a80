"""The command line, with a file for each command or group of commands."""
