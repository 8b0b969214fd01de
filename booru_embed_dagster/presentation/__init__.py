"""What the UI shows of an asset: metadata entries, tables and plots.

Figures are computed in the core; nothing here computes one.
"""
