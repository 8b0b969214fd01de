"""torchrun on several machines, ``python -m booru_embed_core.training.torchrun``, which takes torchrun's arguments.

torchrun's own connection to the rendezvous waits for the kernel to give up once a link is cut: 15 minutes on Linux.
Here it gives up as soon as the ranks do, and says so in one line.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import Final

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main as torchrun

from booru_embed_core.errors import one_line
from booru_embed_core.training.lifeline import SILENT_SECONDS, tcp_connections

_PERIOD_SECONDS: Final = 1.0


def limit_silence(seconds: float) -> None:
    """Has the kernel end those TCP connections of this process on which what was sent stays unanswered for so long.

    Only Linux has such a limit.
    """
    if sys.platform != "linux":
        return
    for connection in tcp_connections():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))


def main() -> None:
    """Runs torchrun; a thread looks after its connections, which it opens when it wants."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PERIOD_SECONDS):
            limit_silence(SILENT_SECONDS)

    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        threading.Thread(target=watch, name="connections", daemon=True).start()
    try:
        torchrun()
    except ChildFailedError as error:
        failed = sorted(error.failures)
        sys.exit(f"torchrun: ranks {', '.join(map(str, failed))} of this machine failed; their messages stand above")
    except RendezvousError as error:
        reason = one_line(error.__cause__ or error, 160)
        sys.exit(
            f"torchrun: the other machines cannot be reached ({reason}); start it again on all of them: the work "
            "resumes from what is saved"
        )
    finally:
        ended.set()


if __name__ == "__main__":
    main()
