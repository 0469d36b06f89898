"""In step with the platform: a client asks a platform of its own version or a later one."""

VERSION = "0.1.0"
