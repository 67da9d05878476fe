"""The phases of an update, the votes on them, and what luod is doing: the words of all interfaces."""

from typing import Literal

VotePhase = Literal["preparing", "freezing"]
"""A phase that participants vote on."""
Phase = Literal[VotePhase, "jumping", "cancelled"]
"""Of an update under way, up to the kexec."""
UpdateState = Literal[Phase, "restoring", "done"]
"""Of an update, also in the next kernel: restoring while incoming sessions are left."""
State = Literal["idle", VotePhase, "jumping", "restoring"]
"""Of luod. After a cancelled update it is idle again; restoring is idle with incoming sessions left to be finished."""
News = Literal[VotePhase, "granted", "jumping", "cancelled", "lost"]
"""What a participant is told of an update."""
EventKind = Literal["following", News]
Ballot = Literal["ready", "veto"]
Standing = Literal["awaited", "granted", "ready", "vetoed", "lost"]
"""Of a participant in a phase."""
SessionStanding = Literal[Standing, "unasked", "torn"]
"""Of a session in an update: its participant's; unasked: it has none; torn: it came over without `ready`."""
Clock = Literal["tsc", "wall"]
"""What measured the time over the kexec."""
