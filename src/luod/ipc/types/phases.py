"""The words for updates in all interfaces: phases, votes, and luod's states."""

from luod.static import Literal

VotePhase = Literal["preparing", "freezing"]
"""A phase on which participants vote."""
Phase = Literal[VotePhase, "jumping", "cancelled"]
"""The phase of an update, up to the kexec."""
UpdateState = Literal[Phase, "restoring", "done"]
"""The state of an update, also in the next kernel: restoring while incoming sessions are left."""
State = Literal["idle", VotePhase, "jumping", "restoring"]
"""The state of luod. After a cancelled update it is idle again; restoring is idle with unfinished incoming sessions."""
News = Literal[VotePhase, "granted", "jumping", "cancelled", "lost"]
"""The events of an update for a participant."""
EventKind = Literal["following", News]
Ballot = Literal["ready", "veto"]
Standing = Literal["awaited", "granted", "ready", "vetoed", "lost"]
"""The standing of a participant in a phase."""
SessionStanding = Literal[Standing, "unasked", "torn"]
"""The standing of a session in an update: its participant's; unasked: without one; torn: carried without `ready`."""
Way = Literal["direct", "systemd"]
"""How an update starts the next kernel: luod calls reboot(2), or asks systemd, which stops all units first."""
Clock = Literal["tsc", "wall"]
"""The clock that measured the time over the kexec."""
