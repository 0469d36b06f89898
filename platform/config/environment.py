"""The environment, read by one reader that reports every fault at once.

Knows nothing of Django's settings: settings.py says which variables there are and what they mean.
"""

import os
import secrets
import string
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from environs import EnvValidationError, FileAwareEnv

_IN_HOSTS = frozenset(f"{string.ascii_letters}{string.digits}-._[:]")


class Environment(FileAwareEnv):
    """environs' reader, with `_FILE` variants, gathering faults until `report_faults` is called."""

    def __init__(self) -> None:
        super().__init__(eager=False, strip_whitespace=True)

    def _get_value(self, env_key: str, default: Any) -> Any:
        try:
            value = super()._get_value(env_key, default)
        except (ValueError, OSError) as error:
            # environs raises at once for a `_FILE` that can't be read, even when it isn't eager.
            self.fault(env_key, str(error))
            return default
        # `PORT= make run` means "as if it were not set".
        return default if value == "" else value

    def fault(self, name: str, message: str) -> None:
        """Adds a fault that only settings.py can see, such as two variables at odds."""
        self._errors[name].append(message)

    def report_faults(self) -> None:
        """Ends the process with one report of every variable that is missing or not understood.

        SystemExit, not an error: a traceback would bury what the operator has to read.
        """
        faults = sorted(self._errors.items())
        try:
            self.seal()
        except EnvValidationError:
            lines = [f"  {name}: {' '.join(map(str, messages))}" for name, messages in faults]
            raise SystemExit(
                "The platform can't start. These environment variables need attention:\n"
                + "\n".join(lines)
                + "\nREADME.md says what each of them means."
            ) from None


def made_once(path: Path) -> str:
    """A secret made at first use and kept in `path`, readable by its owner alone (mode 0600).

    Two processes that start together agree: the file appears whole, or not at all, and whoever
    comes second reads what the first one wrote.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # By a name that is new each time: whoever died here before may have had the same pid.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def lines(path: Path) -> list[str]:
    """What a file has, line by line; nothing, where there is no file."""
    return path.read_text().split() if path.exists() else []


def origin(url: str) -> tuple[str, str, int | None]:
    """Splits an origin such as `https://keys.example:8443` into scheme, host and port.

    Raises ValueError, with words for the operator, for anything that is not one (RFC 6454 §4).
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as https://keys.example.org")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError("must be scheme, host and port alone, without a path")
    return parts.scheme, parts.hostname, parts.port


def host(name: str) -> str:
    """A host's name or IP address, as browsers send it: lower case, and without a port.

    Raises ValueError, with words for the operator, for anything else. A pattern such as `*` is
    none: the Host header would be whatever a stranger says.
    """
    if "*" in name or name.startswith("."):
        raise ValueError("is a pattern: name each host.")
    try:
        found = urlsplit(f"//{in_brackets(name.lower())}")
        is_host = found.netloc == in_brackets(found.hostname or "") and bool(found.hostname)
    except ValueError:
        is_host = False
    if not is_host or not set(name) <= _IN_HOSTS:
        raise ValueError("is no host: name it without scheme, port and path.")
    return found.hostname or ""


def in_brackets(name: str) -> str:
    """A host as it stands in an address: IPv6 has colons of its own (RFC 3986 §3.2.2)."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def site(url: str) -> str:
    """The origin of an address: `https://accounts.google.com/o/oauth2/auth` without its path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
