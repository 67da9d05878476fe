"""The init of a machine under test: it answers a test that lives outside. Standard library only; it runs as PID 1.

    python3 -m luod.testing.agent --channel FD|PATH [--power-off]

FD is a stream socket that every boot inherits (`luoemu` passes inheritable fds to init), PATH a virtio-serial port,
whose far end stays over a jump. --power-off is for a machine that init's end would not end.

On the channel goes one JSON object a line. At start: {"hello": boot, "agent": id, "kernel": path, "namespaces"}; boot
is 0 and kernel "" where the machine does not say. A request is {"id", "agent", "do", …} and has exactly one answer,
{"id", "value"} or {"id", "error": {kind, errno, text}}; they may be answered in any order. What programs do is told as
it happens: {"program", "stderr"} and {"program", "ended"}, so a jump loses nothing of it. A request for another boot's
agent is dropped: it was sent before a jump, too late. Bytes travel as base64. A line that is no request is answered
with an error without an id.

It is no shell and no service manager: it starts programs, talks to them and reaps them. `luod.testing.machine` is
the other end. It imports nothing of luod but itself, so that it runs for any uid and on a machine that has only Python.
"""
