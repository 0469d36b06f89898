"""The version of the platform that the client belongs to. Later platforms support it as well."""

VERSION = "0.2.0"
