"""Endpoints for programs: device codes, tokens, revocation, introspection, metadata."""

from oauth.endpoints.device import DeviceCodeEndpoint
from oauth.endpoints.introspection import IntrospectionEndpoint
from oauth.endpoints.metadata import MetadataEndpoint
from oauth.endpoints.token import RevocationEndpoint, TokenEndpoint

__all__ = [
    "DeviceCodeEndpoint",
    "IntrospectionEndpoint",
    "MetadataEndpoint",
    "RevocationEndpoint",
    "TokenEndpoint",
]
