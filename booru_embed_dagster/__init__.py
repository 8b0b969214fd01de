"""The DAG: assets that call one function of `booru_embed_core` each, and the warehouse they publish to."""

import os

# torch's CPU threads wait for each other actively by default. Where another process takes one of the cores, a training
# step on two then took 2.2 s instead of 0.85 s. Read when torch is first imported, and by the processes started here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
