"""Decodes what luod answered: `luod.decode`, lenient for a newer luod."""

from __future__ import annotations

from luod.decode import ABSENT, Decoder, Misfit
from luod.errors import ProtocolError
from luod.static import Final, TypeVar

T = TypeVar("T")

_DECODER: Final = Decoder(strict=False)


def decode(kind: type[T], given: object, what: str = "") -> T:
    """Returns `given`, the member `what` of luod's answer or all of it, as a `kind`.

    Raises ProtocolError, which names a member that does not fit.
    """
    try:
        return _DECODER(kind, given)
    except Misfit as misfit:
        where = misfit.inside(what).path if what else misfit.path
        if misfit.known and misfit.given is not ABSENT:
            raise ProtocolError(f"luod's answer: {misfit}") from None
        wanted = "object" if misfit.wanted is dict else getattr(misfit.wanted, "__name__", "")
        problem = f"has no {wanted} `{where}`" if where else f"is not a {wanted}"
        raise ProtocolError(f"luod's answer {problem}") from None
