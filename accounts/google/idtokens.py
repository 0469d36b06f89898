"""Verify ID tokens: signature, issuer, audience and times (OpenID Connect Core §3.1.3.7).

accounts.social compares the nonce with that of the session that began the login.
"""

import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from allauth.socialaccount.adapter import get_adapter
from django.conf import settings

from accounts.providers import ProviderError

GOOGLE_ISSUER: Final = "https://accounts.google.com"
_GOOGLE_JWKS_URL: Final = "https://www.googleapis.com/oauth2/v3/certs"
# The default of OpenID Connect, which Google uses.
_ALGORITHMS: Final = ["RS256"]
# Seconds of clock skew.
_LEEWAY: Final = 30
# Seconds to cache the keys, and the minimum between two fetches for an unknown key. Providers
# publish a new key before they sign with it.
_CACHE_SECONDS: Final = 3600.0
_REFETCH_SECONDS: Final = 60.0


def verify(token: str, *, client_id: str, issuer: str) -> dict[str, Any]:
    """Return the claims of `token`, which `issuer` has signed for `client_id`.

    Raises ProviderError for any other token, and requests.RequestException if the issuer's keys
    can't be fetched.
    """
    try:
        key = _key(jwt.get_unverified_header(token).get("kid"), issuer)
        claims = jwt.decode(
            token,
            key,
            algorithms=_ALGORITHMS,
            audience=client_id,
            issuer=issuer,
            leeway=_LEEWAY,
            options={"require": ["iss", "sub", "aud", "exp"]},
        )
    except jwt.PyJWTError as error:
        raise ProviderError("The ID token is not valid.", code=type(error).__name__) from error
    _check_authorized_party(claims, client_id)
    return claims


def _check_authorized_party(claims: dict[str, Any], client_id: str) -> None:
    """Raise ProviderError unless the token was issued to this client (claims `aud` and `azp`)."""
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    # A token for several audiences names the authorized party in `azp`.
    is_ours_alone = all(audience == client_id for audience in audiences)
    if claims.get("azp", client_id if is_ours_alone else None) != client_id:
        raise ProviderError("The ID token was issued to another client.", code="wrong_party")


@dataclass(frozen=True, slots=True)
class _KeySet:
    by_id: dict[str | None, jwt.PyJWK]
    fetched_at: float


_key_cache: dict[str, _KeySet] = {}


def clear_key_cache() -> None:
    """Drop the cached keys, so that the next verification fetches them."""
    _key_cache.clear()


def _key(key_id: str | None, issuer: str) -> jwt.PyJWK:
    keys = _key_cache.get(issuer)
    age = time.monotonic() - keys.fetched_at if keys else _CACHE_SECONDS
    if (
        keys is None
        or age >= _CACHE_SECONDS
        or (key_id not in keys.by_id and age >= _REFETCH_SECONDS)
    ):
        keys = _key_cache[issuer] = _KeySet(_fetch(issuer), time.monotonic())
    if key_id is None and len(keys.by_id) == 1:
        # §10.1: a key needs an id only where there are several.
        return next(iter(keys.by_id.values()))
    try:
        return keys.by_id[key_id]
    except KeyError:
        raise ProviderError("The ID token is signed by no known key.", code="wrong_key") from None


def _fetch(issuer: str) -> dict[str | None, jwt.PyJWK]:
    with get_adapter().get_requests_session() as session:
        response = session.get(_jwks_url(session, issuer))
        response.raise_for_status()
        keys = jwt.PyJWKSet.from_dict(response.json()).keys
    return {key.key_id: key for key in keys if key.public_key_use in {None, "sig"}}


def _jwks_url(session: Any, issuer: str) -> str:
    """Return the issuer's JWKS URL from its metadata (OpenID Connect Discovery §4)."""
    if issuer == GOOGLE_ISSUER:
        return _GOOGLE_JWKS_URL
    response = session.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    response.raise_for_status()
    metadata = response.json()
    if metadata["issuer"] != issuer:
        raise ProviderError("The metadata is another issuer's.", code="wrong_issuer")
    url: str = metadata["jwks_uri"]
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in settings.LOOPBACK:
        raise ProviderError("The keys are not fetched over plain http.", code="plain_http")
    return url
