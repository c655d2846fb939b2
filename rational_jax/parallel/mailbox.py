"""Notes between the processes of a job, over the service by which JAX keeps them together. No device takes part."""

import functools

import jax
import numpy as np

from rational_jax.errors import UserError

_PIECE_BYTES = 1 << 20  # a note goes in parts, since the service limits the size of a message
_PATIENCE_MS = 60_000  # how long one call waits; that a process has died is noticed by JAX itself


class Mailbox:
    """Ordered notes between this process and others of its job: what A sends to B, B receives in the same order.

    Raises UserError where the processes were not joined.
    """

    def __init__(self):
        # There is no public way to it; Orbax takes this one too.
        from jax._src import distributed

        self._client = distributed.global_state.client
        if self._client is None:
            raise UserError("JAX knows of several processes, and they were not joined: run this verb on one host")
        self._sent, self._received = np.zeros((2, jax.process_count()), int)

    def send(self, receiver: int, note: bytes) -> None:
        """Leaves a note for a process, without waiting until it is read."""
        name = _name(jax.process_index(), receiver, self._sent[receiver])
        parts = [note[start : start + _PIECE_BYTES] for start in range(0, len(note), _PIECE_BYTES)]
        for number, part in enumerate(parts, start=1):
            self._client.key_value_set_bytes(f"{name}/{number}", part)
        # Comes last, so that who sees it finds the others.
        self._client.key_value_set(f"{name}/0", str(len(parts)))
        self._sent[receiver] += 1

    def receive(self, sender: int) -> bytes:
        """The next note of a process, waited for as long as that one lives."""
        while True:
            try:
                return self._take(sender, self._client.blocking_key_value_get(self._next(sender), _PATIENCE_MS))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def poll(self, sender: int) -> bytes | None:
        """The next note of a process, None where there is none yet."""
        parts = self._peek(sender)
        return None if parts is None else self._take(sender, parts)

    def waiting(self, sender: int) -> bool:
        """Whether a note of this process has not been received yet."""
        return self._peek(sender) is not None

    def _peek(self, sender: int) -> str | None:
        try:
            return self._client.key_value_try_get(self._next(sender))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def _take(self, sender: int, parts: str) -> bytes:
        name = _name(sender, jax.process_index(), self._received[sender])
        read = (self._client.blocking_key_value_get_bytes(f"{name}/{n + 1}", _PATIENCE_MS) for n in range(int(parts)))
        note = b"".join(read)
        self._client.key_value_delete(f"{name}/")
        self._received[sender] += 1
        return note

    def _next(self, sender: int) -> str:
        return f"{_name(sender, jax.process_index(), self._received[sender])}/0"


@functools.cache
def mailbox() -> Mailbox:
    """This process's only one: its counts of notes hold for as long as the job."""
    return Mailbox()


def _name(sender: int, receiver: int, number: int) -> str:
    return f"rational/{sender}/{receiver}/{number}"
