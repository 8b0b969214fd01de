"""Faults on purpose: writes that fail, power cuts, damaged products, and inputs that a fuzzer finds."""
