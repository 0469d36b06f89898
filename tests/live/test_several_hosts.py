"""DATABASE_URL with several hosts: the platform uses the one that takes writes."""

import psycopg

from tests.live.conftest import Folder, join, new_database, serving, validate
from tests.platforms import free_port


def test_an_unreachable_host_is_skipped(fresh_folder: Folder, postgresql: str) -> None:
    """By Django's pool, by the listener for invalidations, and by management commands."""
    server = psycopg.conninfo.conninfo_to_dict(new_database(postgresql))
    url = (
        f"postgres://{server['user']}@/{server['dbname']}?host=127.0.0.1,{server['host']}"
        f"&port={free_port()},5432&target_session_attrs=read-write"
    )
    with serving(fresh_folder(), DATABASE_URL=url, LISTEN_DATABASE_URL=url) as running:
        (key,) = join(running, keys=1).keys
        assert validate(running, key.token).status == 200
        assert "Traceback" not in running.printed()
