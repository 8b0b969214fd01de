"""Held-out tasks, metrics, baselines and linear probes, and the reports and the percentile sweep built on them.

Trained models come in as scorers. Nothing here trains a model, writes a product or knows Dagster.
"""
