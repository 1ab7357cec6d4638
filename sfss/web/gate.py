"""Who may pass: what a request brings is held against the rules, before anything of its body is
read.

Where anybody may do everything that is done every day, and no URL is signed, nothing of a request
is looked at.
"""

import re
import time
from base64 import b64decode
from dataclasses import replace
from typing import Final

from aiohttp import web

from sfss import signing
from sfss.grants import ADMIN, EVERYDAY, READ, Grant, Rules
from sfss.web import http
from sfss.web.needs import Need, needs, signable_path

_KNOWN_LIMIT: Final = 1024
"""Authorization fields that are remembered."""

_BEARER: Final = 'Bearer realm="sfss"'
_BASIC: Final = 'Basic realm="sfss", charset="UTF-8"'

_AUTHORIZATION: Final = re.compile(rb"\r\nAuthorization:[ \t]*([^\r]*)", re.IGNORECASE)


class Gate:
    """Lets requests to one listener pass, or refuses them, by ``rules``.

    As long as ``settle`` has not said where it listens, it is taken for one that others reach.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._has_tokens, self._signs = bool(rules.tokens), bool(rules.signing_keys)
        self.settle(is_local=False)

    def settle(self, is_local: bool) -> None:
        """Take note whether only this machine reaches the listener."""
        self._is_local = is_local
        self.anybody = Grant(free=self._rules.free(is_local))
        self._is_open = self.anybody.free.issuperset(EVERYDAY)
        # By what was said; only what was right is here. That it is found by equality tells nobody
        # how near a guess is: a dictionary compares hashes first, and those are salted.
        self._known: dict[str, Grant] = {}

    def identify(self, request: web.BaseRequest) -> None:
        """Note in the request what its token allows."""
        said = request.headers.getall("Authorization", ()) if self._has_tokens else ()
        request[http.GRANT] = self.grant_of(said[0]) if len(said) == 1 else self.anybody

    def refusal(
        self, site: http.Site, request: web.BaseRequest, face: str, scope: str
    ) -> http.Answer | None:
        """Return the answer to a ``request`` that may not pass, to a route of ``face`` that needs
        ``scope``; None for one that may. It has to be identified.
        """
        grant = request[http.GRANT]
        claims = self._signs and _has_signature(request.raw_path)
        if not scope or (self._is_open and scope != ADMIN and not claims):
            return None
        found = needs(site, request, face, scope)
        if claims and (path := signable_path(request, face, found)) is not None:
            return self._check_signature(request, path, found[0][0])
        for need in found:
            if not grant.allows(*need):
                return self._refuse(request, need, face, "Authorization" in request.headers)
        return None

    def grant_of(self, field: str | None) -> Grant:
        """Return what whoever sends this Authorization field may do; None where there is none."""
        if field is None or not self._has_tokens:
            return self.anybody
        grant = self._known.get(field)
        if grant is None:
            grant = self._find(field)
            if grant is None:
                return self.anybody
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known[field] = grant
        return grant if time.time() < grant.until_s else self.anybody

    def _find(self, field: str) -> Grant | None:
        secret = secret_in(field)
        found = None if secret is None else self._rules.find(secret)
        return None if found is None else replace(found, free=self.anybody.free)

    def reader(self, block: bytes, path: str) -> Grant | None:
        """Return what whoever sends a GET with the header ``block``, which names no field twice,
        may do, if that is to read ``path``; else None.
        """
        match = _AUTHORIZATION.search(b"\r\n" + block) if self._has_tokens else None
        grant = self.anybody if match is None else self.grant_of(match[1].decode("ascii").rstrip())
        return grant if grant.allows(READ, path) else None

    def _check_signature(
        self, request: web.BaseRequest, path: str, scope: str
    ) -> http.Answer | None:
        claim = signing.Claim(*(http.argument(request, name) for name in signing.ARGUMENTS))
        keys = self._rules.signing_keys
        try:
            name = signing.check(claim, request.method, path, keys, time.time())
        except signing.BadSignature as error:
            return http.refuse(request, 403, str(error))
        request[http.GRANT] = Grant(
            f"signed:{name}", frozenset({scope}), (path,), free=self.anybody.free
        )
        return None

    def _refuse(
        self, request: web.BaseRequest, need: Need, face: str, has_said: bool
    ) -> http.Answer:
        scope, _ = need
        grant = request[http.GRANT]
        if grant.name:
            return http.refuse(request, 403, _short_of(grant, need))
        if not self._rules.has_token(scope):
            return http.refuse(request, 403, self._nobody_may(scope))
        if has_said:
            sentence = "this token is not known, or not any more"
        else:
            sentence = f'Authorization: Bearer TOKEN is needed, a token with the scope "{scope}"'
        answer = http.refuse(request, 401, sentence, {"WWW-Authenticate": _BEARER})
        if face == "paths":  # for WebDAV clients; a browser would ask a person
            answer.headers.add("WWW-Authenticate", _BASIC)
        return answer

    def _nobody_may(self, scope: str) -> str:
        sentence = f'nobody may: there is no token with the scope "{scope}" (access.tokens)'
        if not self._is_local and scope in self._rules.anybody:
            sentence += ", and access.open_to_the_network does not have it"
        return sentence


def _has_signature(target: str) -> bool:
    """Tell whether ``signature`` is an argument; a file may have that in its name, too."""
    query = target.partition("#")[0].partition("?")[2]
    return "&signature=" in f"&{query}"


def _short_of(grant: Grant, need: Need) -> str:
    scope, path = need
    if scope not in grant.scopes:
        return f'the token {grant.name} has not the scope "{scope}"'
    what = "all paths" if path is None else f"the path {path!r}"
    return f'the token {grant.name} has the scope "{scope}" for some paths, and not for {what}'


def secret_in(field: str) -> bytes | None:
    """Return the token that an Authorization field brings: of the scheme Bearer (RFC 6750), or as
    the password of Basic (RFC 7617), whatever the name of the user; None for what is neither.
    """
    scheme, _, rest = field.partition(" ")
    given = rest.strip().encode("utf-8", "surrogateescape")  # whatever bytes came
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(given, validate=True).partition(b":")[2]
    except ValueError:
        return None
