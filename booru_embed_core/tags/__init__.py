"""Tags: how often each is used, which become tokens, and text to token ids."""
