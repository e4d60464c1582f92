"""What `mgd COMMAND` does, a file for each command.

The first line of a file is the command's help; `add_arguments(parser)` says what it takes, `run(options)` parses, loads
and calls one function. A command whose `overrides` default to a list takes key.sub=value anywhere on the line.
"""
