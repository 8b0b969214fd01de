"""A Model Context Protocol server: assistants complete, read and compare tags, and search posts.

What the tools answer is made by `web.answers`; the protocol is the official SDK's, the extra ``mcp``.
"""
