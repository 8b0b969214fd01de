"""Tags: how often each is used, which are worth a token, and from text to token ids."""
