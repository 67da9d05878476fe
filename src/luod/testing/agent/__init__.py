"""The init of a machine under test: it answers a test that lives outside. Standard library only; it runs as PID 1.

    python3 -m luod.testing.agent --channel FD|PATH [--outputs DIRECTORY] [--forks] [--preload DIRECTORIES MODULES]
        [--power-off]

FD is a stream socket that every boot inherits (`luoemu` passes inheritable fds to init). PATH is a virtio-serial port,
and its other end stays open over a kexec. What spawned programs write to stderr goes to files in the directory of
--outputs. With --forks, programs that may be forked are forks of the agent, which imports their modules before if they
are luod's or named by --preload (`ahead`). --power-off is for a machine that does not end with its init.

On the channel goes one JSON object a line. At start: {"hello": boot, "agent": id, "kernel": path, "namespaces"}; boot
is 0 and kernel "" where the machine does not say. A request is {"id", "agent", "do", …} and has exactly one answer,
{"id", "value"} or {"id", "error": {kind, errno, text}}, in any order. Output and ends of programs are reported when
they happen: {"program", "stderr"} and {"program", "ended"}, so a kexec loses none. A request for another boot's
agent is dropped: it was sent before a kexec, too late. Bytes are in base64. A line that is not a request is answered
with an error without an id.

It is not a shell or a service manager: it starts programs, talks to them and reaps them. `luod.testing.machine` is
the other end. Of luod it imports only parts that need the standard library alone, so that it runs for any uid and on a
machine that has only Python; what --forks needs is imported at the first fork.
"""
