"""The DAG: assets that call one function of `booru_embed_core` each, and the warehouse they publish to."""

import os

from booru_embed_core.memory import bound_kept_shapes

# torch's CPU threads busy-wait for each other by default. With another process on one of two cores, a training step
# took 2.2 s instead of 0.85 s. Read when torch is first imported, and by the processes started here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
bound_kept_shapes()
