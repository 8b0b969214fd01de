"""The command line: ``booru-embed ...``; one file a group of commands, options and printing only.

What a command does belongs in the room it calls.
"""
