"""Environment variables: values, errors in one report, former names, secrets in files."""

import multiprocessing
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from config.parsers import get_or_create_secret_file, in_brackets, origin

ROOT = Path(__file__).parents[2]
LONG = "s" * 40


_PROCESSES = multiprocessing.get_context("forkserver")
# Imported once: each process is a copy that has still to load the settings.
_PROCESSES.set_forkserver_preload(
    ["dj_database_url", "django.conf", "django_stubs_ext", "environs", "psycopg", "redis", "idna"]
)


def start(tmp_path, *show: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Load the settings in a process with these variables only, and print the ones in `show`."""
    environment = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), **variables}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _PROCESSES.Process(target=_load_settings, args=(outputs, environment, show))
        process.start()
        process.join()
        printed, complained = [path.read_text() for path in outputs]
    assert process.exitcode is not None
    return subprocess.CompletedProcess([], process.exitcode, printed, complained)


def _load_settings(outputs: list[Path], environment: dict[str, str], show: list[str]) -> None:
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    from config import settings

    for name in show:
        # Expressions of the tests, such as `DATABASES["default"]`.
        value = eval(f"settings.{name}", {"settings": settings})  # noqa: S307
        sys.stdout.write(f"{value}\n")


def test_no_variable_is_required_by_default(tmp_path):
    started = start(tmp_path, "PUBLIC_URL", "DEBUG", "ACCOUNT_EMAIL_VERIFICATION")
    assert started.stdout.split() == ["http://127.0.0.1:8000", "False", "optional"]


def test_argon2_is_at_the_owasp_minimum_unless_set(tmp_path):
    started = start(tmp_path, "ARGON2_MEMORY_KIB", "ARGON2_PASSES", "ARGON2_LANES")
    assert started.stdout.split() == ["19456", "2", "1"]


def test_production_reports_all_missing_variables(tmp_path):
    started = start(tmp_path, PRODUCTION="1")
    assert started.returncode == 1
    for name in ["SECRET_KEY", "KEY_PEPPER", "DATABASE_URL", "EMAIL_URL", "PUBLIC_URL"]:
        assert f"  {name}: " in started.stderr
    assert "Traceback" not in started.stderr
    assert not list(tmp_path.iterdir())


def test_all_errors_are_in_one_report(tmp_path):
    started = start(
        tmp_path,
        PRODUCTION="1",
        SECRET_KEY="short",
        KEY_PEPPER_FILE="/nowhere",
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        EMAIL_URL="carrier-pigeon://coop",
        PUBLIC_URL="https://keys.example/with/a/path",
        PORT="eighty",
        CACHE_URL="memcached://x",
        DEBUG="1",
    )
    assert started.returncode == 1
    for name in [
        "SECRET_KEY",
        "KEY_PEPPER",
        "EMAIL_URL",
        "PUBLIC_URL",
        "PORT",
        "CACHE_URL",
        "DEBUG",
    ]:
        assert f"  {name}" in started.stderr, name
    assert "DATABASE_URL" not in started.stderr
    assert "Traceback" not in started.stderr
    assert "short" not in started.stderr.replace("be short", "")


def test_secrets_are_read_from_files(tmp_path):
    (tmp_path / "pepper").write_text(f"{LONG}\n")
    started = start(
        tmp_path,
        "KEY_PEPPER",
        "PUBLIC_URL",
        "ACCOUNT_EMAIL_VERIFICATION",
        "SESSION_COOKIE_NAME",
        PRODUCTION="1",
        SECRET_KEY=LONG,
        KEY_PEPPER_FILE=str(tmp_path / "pepper"),
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        EMAIL_URL="submission://user:pass@mail.example",
        PUBLIC_URL="https://keys.example/",
    )
    assert started.stdout.split() == [
        LONG, "https://keys.example", "mandatory", "__Host-session",
    ], started.stderr  # fmt: skip


def test_a_public_url_with_http_is_refused_with_tls(tmp_path):
    started = start(tmp_path, TLS="1", PUBLIC_URL="http://keys.example")
    assert "PUBLIC_URL" in started.stderr
    assert "Traceback" not in started.stderr


def test_two_platforms_on_one_machine_have_different_cookie_names(tmp_path):
    names = {start(tmp_path, "SESSION_COOKIE_NAME", PORT=port).stdout for port in ["8000", "8001"]}
    assert len(names) == 2


def test_an_empty_variable_counts_as_not_set(tmp_path):
    assert start(tmp_path, "PORT", PORT="", EMAIL_URL="").stdout.split() == ["8000"]


def test_a_link_to_a_database_has_the_same_version_table(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = {
        start(tmp_path, "VERSION_TABLE_FILE", DATABASE_URL=f"sqlite:///{tmp_path}/{name}").stdout
        for name in ["link", "real"]
    }
    assert names == {f"{tmp_path}/real.epochs\n"}


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPER"])
def test_a_secret_is_created_once_and_readable_by_its_owner_only(tmp_path, name):
    first = start(tmp_path, name).stdout
    assert len(first.strip()) >= 48
    assert start(tmp_path, name).stdout == first
    mode = (tmp_path / name.lower()).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPER"])
@pytest.mark.parametrize("content", [b"", b"cut short", b"\xff\xfe" * 40])
def test_a_damaged_secret_file_is_reported_and_kept(tmp_path, name, content):
    (tmp_path / name.lower()).write_bytes(content)
    started = start(tmp_path)
    assert started.returncode == 1
    assert f"  {name}: " in started.stderr
    assert "Traceback" not in started.stderr
    assert (tmp_path / name.lower()).read_bytes() == content


def test_former_secrets_in_var_are_fallbacks(tmp_path):
    for name in ["secret_key", "key_pepper"]:
        (tmp_path / f"{name}_fallbacks").write_text(f"{LONG}\n{LONG[::-1]}b\n")
    started = start(tmp_path, "SECRET_KEY_FALLBACKS", "KEY_PEPPER_FALLBACKS")
    assert started.stdout.splitlines() == [str([LONG, f"{LONG[::-1]}b"])] * 2
    given = start(tmp_path, "SECRET_KEY_FALLBACKS", SECRET_KEY=LONG)
    assert given.stdout.strip() == "[]", "the environment's key has the environment's fallbacks"


def test_processes_that_start_together_read_the_same_secret(tmp_path):
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; "
                "from config.parsers import get_or_create_secret_file; "
                "sys.stdin.readline(); print(get_or_create_secret_file(Path(sys.argv[1])))",
                str(tmp_path / "secret"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=30)[0] for process in processes}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_temporary_file_of_a_dead_process_with_the_same_pid_does_not_matter(tmp_path):
    """In a container the next process may have the same pid."""
    (tmp_path / f".secret.{os.getpid()}").touch()
    assert len(get_or_create_secret_file(tmp_path / "secret")) >= 48


def test_an_existing_secret_file_is_read(tmp_path):
    (tmp_path / "secret").write_text("given\n")
    assert get_or_create_secret_file(tmp_path / "secret") == "given"


@pytest.mark.parametrize(
    "url", ["keys.example", "ftp://x", "https://", "https://x/y", "https://x?y", "https://u@x"]
)
def test_a_url_that_is_no_origin_is_refused(url):
    with pytest.raises(ValueError, match="must be"):
        origin(url)


def test_an_origin_is_split_into_scheme_host_and_port():
    assert origin("https://keys.example:8443/") == ("https", "keys.example", 8443)


HEADER = "X-Client-IP-7c1e5b0d93f24a6882aa"


@pytest.mark.parametrize(
    "variables",
    [
        {"CLIENT_IP_HEADER": HEADER},
        {"CLIENT_IP_HEADER": "7c1e5b0d93f24a6882aa"},
        {"PROXIES_DROP_UNDERSCORES": "1"},
        {"PROXIES_DROP_UNDERSCORES": "1", "CLIENT_IP_HEADER": HEADER},
    ],
)
def test_proxies_are_trusted_if_no_client_can_forge_their_headers(tmp_path, variables):
    started = start(tmp_path, "TRUSTED_PROXIES", TRUSTED_PROXIES="10.0.0.7", **variables)
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize("variables", [{}, {"PROXIES_DROP_UNDERSCORES": "0"}])
def test_proxies_are_refused_if_clients_can_forge_their_headers(tmp_path, variables):
    started = start(tmp_path, TRUSTED_PROXIES="10.0.0.7", **variables)
    assert started.returncode == 1
    assert "  TRUSTED_PROXIES: " in started.stderr
    assert "CLIENT_IP_HEADER" in started.stderr
    assert "PROXIES_DROP_UNDERSCORES" in started.stderr


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "X-Client-IP-secret", "Forwarded",
        "X_Client_IP_7c1e5b0d93f24a6882aa", "X-Client-IP-7c1e5b0d93f24a6882aa:",
        "X-Client-IP-aaaaaaaaaaaaaaaaaaaaaaaa", "X-Client-IP 7c1e5b0d93f24a6882aa",
    ],
)  # fmt: skip
def test_a_client_ip_header_that_can_be_guessed_is_refused(tmp_path, name):
    started = start(tmp_path, TRUSTED_PROXIES="10.0.0.7", CLIENT_IP_HEADER=name)
    assert started.returncode == 1
    assert "  CLIENT_IP_HEADER: " in started.stderr


def test_a_client_ip_header_needs_trusted_proxies(tmp_path):
    started = start(tmp_path, CLIENT_IP_HEADER=HEADER)
    assert started.returncode == 1
    assert "TRUSTED_PROXIES" in started.stderr


def errors(tmp_path, **variables: str) -> dict[str, str]:
    """Return the messages of the report by variable."""
    started = start(tmp_path, **variables)
    assert started.returncode == 1, started.stderr
    assert "Traceback" not in started.stderr
    return dict(re.findall(r"^  (\w+): (.+)$", started.stderr, re.MULTILINE))


A, B, C = ("a" * 40, "b" * 40, "c" * 40)


def test_lists_are_split_on_commas_and_blanks(tmp_path):
    (tmp_path / "former").write_text(f"{A},\n {B}\n,, {C} {A}\n")
    started = start(
        tmp_path / "var",
        "KEY_PEPPER_FALLBACKS",
        "SECRET_KEY_FALLBACKS",
        "TRUSTED_PROXIES",
        "ALLOWED_HOSTS",
        "SITE_WHITELIST",
        KEY_PEPPER_FALLBACKS_FILE=str(tmp_path / "former"),
        SECRET_KEY_FALLBACKS=f" {A}, {B} ,",
        TRUSTED_PROXIES="10.0.0.0/8, 192.168.1.7\tfd00::/8,::ffff:172.16.0.9",
        PROXIES_DROP_UNDERSCORES="1",
        ALLOWED_HOSTS="studio.lan, B\u00dcCHER.example",
        SITE_WHITELIST="https://one.example https://two.example,",
    )
    assert started.stdout.splitlines() == [
        str([A, B, C]),
        str([A, B]),
        str(["10.0.0.0/8", "192.168.1.7", "fd00::/8", "172.16.0.9"]),
        str(["127.0.0.1", "localhost", "[::1]", "studio.lan", "xn--bcher-kva.example"]),
        str(["https://one.example", "https://two.example"]),
    ], started.stderr


def test_each_invalid_variable_is_reported(tmp_path):
    wrong = {
        "ALLOWED_HOSTS": "studio.lan *.studio.lan",
        "ARGON2_CONCURRENCY": "-1",
        "ARGON2_LANES": "0",
        "ARGON2_MEMORY_KIB": "7",
        "ARGON2_PASSES": "0",
        "ARGON2_PATIENT_WAIT": "-1",
        "ARGON2_WAIT": "inf",
        "CACHE_URL": "redis://127.0.0.1/keys",
        "DATABASE_URL": "mysql://keys:hunter2@127.0.0.1/keys",
        "DEFAULT_FROM_EMAIL": "keys",
        "EMAIL_URL": "smtp+tls://mail.example",
        "VALIDATION_CACHE_SIZE": "0",
        "INVALIDATION_LEASE_SECONDS": "-2",
        "GUESSES_PER_MINUTE": "-5",
        "HOST": "*",
        "HSTS_SECONDS": "-1",
        "KEYS_PER_ACCOUNT": "-1",
        "KEY_PEPPER_FALLBACKS": f"{A}, old",
        "LISTEN_DATABASE_URL": "postgres://keys:hunter2@127.0.0.1/keys?sslmod=require",
        "LOG_FORMAT": "xml",
        "LOG_LEVEL": "LOUD",
        "LOG_REQUESTS": "some",
        "MIGRATION_DATABASE_URL": "mysql://keys:hunter2@127.0.0.1/keys",
        "MIGRATION_WAIT": "0",
        "NEW_KEYS_PER_HOUR": "-1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces?a=b",
        "OTEL_TRACES_EXPORTER": "console",
        "PORT": "0",
        "VERIFIED_CACHE_SIZE": "0",
        "PUBLIC_URL": "https://keys example.org",
        "REPLICA_MAX_LAG": "0",
        "REPLICA_URL": "mysql://keys:hunter2@127.0.0.1/keys",
        "SECRET_KEY_FALLBACKS": "old",
        "SERVICE_SECRETS": "short",
        "SHARED_VERIFIED_FOLDER": "/nowhere",
        "DB_RETRY_SECONDS": "nan",
        "DB_STATEMENT_TIMEOUT": "0",
        "TLS_CERT": "/nowhere/cert.pem",
        "TLS_KEY": "/nowhere/key.pem",
        "TRUSTED_PROXIES": "10.0.0.1/8, proxy, *, 0.0.0.0/0, 10.0.0.256",
        "USAGE_FLUSH_INTERVAL": "-1",
        "VAR_DIR": "/var",
        "WORKERS": "-2",
        # One letter away from a known name.
        "KEY_PER_ACCOUNT": "5",
        "PRODUCTON": "1",
        "TRUSTED_PROXY": "10.0.0.1",
    }
    found = errors(tmp_path, **wrong)
    assert found.keys() >= wrong.keys()
    assert "hunter2" not in str(found)
    for given in ("10.0.0.1/8", "proxy", "*", "0.0.0.0/0", "10.0.0.256"):
        assert f"has {given!r}, which is " in found["TRUSTED_PROXIES"]
    assert "write 10.0.0.0/8, or 10.0.0.1 alone" in found["TRUSTED_PROXIES"]
    assert "Is it TRUSTED_PROXIES?" in found["TRUSTED_PROXY"]


@pytest.mark.parametrize(
    ("database", "replica", "message"),
    [
        ("sqlite:////tmp/x.sqlite3", "postgres://127.0.0.1/keys", "needs a DATABASE_URL"),
        ("postgres://127.0.0.1/keys", "sqlite:////tmp/x.sqlite3", "must lead to PostgreSQL"),
    ],
)
def test_a_replica_needs_postgresql_on_both_sides(tmp_path, database, replica, message):
    found = errors(tmp_path, DATABASE_URL=database, REPLICA_URL=replica)
    assert message in found["REPLICA_URL"]


def test_nothing_is_routed_without_a_replica(tmp_path):
    url = "postgres://127.0.0.1/keys"
    shown = ["DATABASE_ROUTERS", "DATABASES.keys()"]
    assert start(tmp_path, *shown, DATABASE_URL=url).stdout.split("\n")[:2] == [
        "[]",
        "dict_keys(['default'])",
    ]
    shown.append("DATABASES['replica']['OPTIONS']['options'].split()[-1]")
    routed = start(tmp_path, *shown, DATABASE_URL=url, REPLICA_URL=url).stdout
    assert routed.split("\n")[:3] == [
        "['core.replica.ReplicaRouter']",
        "dict_keys(['default', 'replica'])",
        "default_transaction_read_only=on",
    ]


def test_variables_of_other_programs_are_not_reported_as_misspelt(tmp_path):
    started = start(
        tmp_path, "PORT", DATABASE_USER="x", DATABASE_NAME="x", CACHE_DIR="x", TLS_CA="x",
        HOSTS="x", SECRET="x", EMAIL_HOST="x", PUBLIC_PORT="x",
        KEY_PEPPER_FALLBACKS_FILE="/dev/null",
    )  # fmt: skip
    assert started.stdout == "8000\n", started.stderr


def test_a_value_that_is_given_twice_is_reported(tmp_path):
    (tmp_path / "empty").touch()
    found = errors(
        tmp_path,
        KEY_PEPPER=A,
        KEY_PEPPER_FILE="/etc/hostname",
        SECRET_KEY_FILE=str(tmp_path / "empty"),
        TLS="0",
        TLS_CERT="/etc/hostname",
        TLS_KEY="/etc/hostname",
    )
    assert "both set" in found["KEY_PEPPER"]
    assert "is empty" in found["SECRET_KEY"]
    assert "TLS_CERT" in found["TLS"]


def test_a_pepper_with_blanks_around_it_is_also_a_fallback(tmp_path):
    """Earlier versions did not strip them, so they were part of the pepper."""
    started = start(tmp_path, "KEY_PEPPER", "KEY_PEPPER_FALLBACKS", KEY_PEPPER=f"{A}\n")
    assert started.stdout == f"{A}\n{[f'{A}' + chr(10)]!r}\n", started.stderr


@pytest.mark.parametrize(
    ("given", "public", "host"),
    [
        ("https://B\u00dcCHER.example/", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://stra\u00dfe.example", "https://xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("https://Keys.Example:443", "https://keys.example", "keys.example"),
        ("http://[0:0::1]:80", "http://[::1]", "::1"),
        ("https://keys.example.:8443", "https://keys.example:8443", "keys.example"),
    ],
)
def test_an_origin_is_normalized_as_browsers_do(given, public, host):
    scheme, name, port = origin(given)
    assert name == host
    assert f"{scheme}://{in_brackets(name)}{f':{port}' if port else ''}" == public


@pytest.mark.parametrize(
    "url",
    [
        "https://\u2603.example", "https://keys example", "https://a..b", "https://0x7f.1",
        "https://127.1", "https://x:99999", "https://x:0", "https://:pw@x", "https://[::1",
        "https://x/#", "https://x?", "https://*.example",
    ],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(url):
    with pytest.raises(ValueError, match="must"):
        origin(url)


def test_a_public_url_with_letters_beyond_ascii_is_converted(tmp_path):
    started = start(
        tmp_path, "PUBLIC_URL", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DEFAULT_FROM_EMAIL",
        PUBLIC_URL="https://B\u00fccher.example:443",
    )  # fmt: skip
    assert started.stdout.splitlines() == [
        "https://xn--bcher-kva.example",
        "['xn--bcher-kva.example']",
        "['https://xn--bcher-kva.example']",
        "ComfyUI keys <no-reply@xn--bcher-kva.example>",
    ], started.stderr


def test_a_folder_with_url_characters_in_its_name_is_used(tmp_path):
    started = start(tmp_path / "a b#c%20?d", "DATABASES['default']['NAME']")
    assert started.stdout == f"{tmp_path}/a b#c%20?d/platform.sqlite3\n"
    assert (tmp_path / "a b#c%20?d").is_dir()


def test_a_folder_that_can_not_be_created_is_reported(tmp_path):
    (tmp_path / "file").touch()
    assert errors(tmp_path / "file").keys() == {"VAR_DIR"}
    below = start(tmp_path / "file" / "below", SECRET_KEY=A, KEY_PEPPER=B)
    assert below.returncode == 1
    assert "Traceback" not in below.stderr
    assert "can't be made" in below.stderr


RENAMED = {
    "FAST_LANE": ("VALIDATION_CACHE", "0", "False"),
    "FAST_LANE_VERDICTS": ("VALIDATION_CACHE_SIZE", "7", "7"),
    "FLEET_BOUND": ("INVALIDATION_LEASE_SECONDS", "3", "3.0"),
    "PROOFS_REMEMBERED": ("VERIFIED_CACHE_SIZE", "8", "8"),
    "SHARED_PROOFS_FOLDER": ("SHARED_VERIFIED_FOLDER", "/", "/"),
    "STORE_PATIENT_WAIT": ("DB_RETRY_SECONDS", "4", "4.0"),
    "STORE_WAIT": ("DB_STATEMENT_TIMEOUT", "6", "6.0"),
}


def test_former_names_of_variables_still_work(tmp_path):
    given = {old: value for old, (_new, value, _shown) in RENAMED.items()}
    started = start(tmp_path, *[new for new, *_ in RENAMED.values()], **given)
    assert started.stdout.split() == [shown for *_, shown in RENAMED.values()], started.stderr


def test_a_former_name_can_name_a_file(tmp_path):
    (tmp_path / "size").write_text("9\n")
    started = start(tmp_path, "VERIFIED_CACHE_SIZE", PROOFS_REMEMBERED_FILE=str(tmp_path / "size"))
    assert started.stdout == "9\n", started.stderr


def test_a_former_and_a_new_name_with_different_values_are_reported(tmp_path):
    found = errors(tmp_path, STORE_WAIT="3", DB_STATEMENT_TIMEOUT="4")
    assert found.keys() == {"DB_STATEMENT_TIMEOUT"}
    assert "STORE_WAIT have different values" in found["DB_STATEMENT_TIMEOUT"]


def test_a_former_and_a_new_name_may_have_the_same_value(tmp_path):
    started = start(tmp_path, "VERIFIED_CACHE_SIZE", PROOFS_REMEMBERED="5", VERIFIED_CACHE_SIZE="5")
    assert started.stdout == "5\n", started.stderr


def test_an_invalid_value_under_a_former_name_is_reported_with_both_names(tmp_path):
    found = errors(tmp_path, STORE_WAIT="0")
    assert "set by its former name, STORE_WAIT" in found["DB_STATEMENT_TIMEOUT"]


def test_the_start_logs_each_former_name_once(tmp_path):
    started = subprocess.run(
        [sys.executable, "manage.py", "serve"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(tmp_path),
            # Ends the start after the settings are read.
            "DATABASE_URL": "sqlite:///:memory:",
            "FLEET_BOUND": "3",
            "STORE_WAIT": "6",
            "VERIFIED_CACHE_SIZE": "9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert re.findall(r"(\w+) is now (\w+)\.", started.stderr) == [
        ("STORE_WAIT", "DB_STATEMENT_TIMEOUT"),
        ("FLEET_BOUND", "INVALIDATION_LEASE_SECONDS"),
    ]


@pytest.mark.parametrize(
    ("given", "color"), [("#C5E435", "#c5e435"), ("#0af", "#00aaff"), (" #123456 ", "#123456")]
)
def test_an_accent_color_is_six_digits(tmp_path, given, color):
    assert start(tmp_path, "ACCENT_COLOR", ACCENT_COLOR=given).stdout.strip() == color


@pytest.mark.parametrize("given", ["green", "c5e435", "#c5e43", "#c5e435ff", "#ggg", "#fff;}"])
def test_another_accent_color_is_an_error(tmp_path, given):
    assert "must be a color such as #c5e435" in errors(tmp_path, ACCENT_COLOR=given)["ACCENT_COLOR"]


def test_the_name_of_the_site_is_the_sender_of_emails(tmp_path):
    shown = ("SITE_NAME", "DEFAULT_FROM_EMAIL")
    url = "https://keys.example"
    assert start(tmp_path, *shown, PUBLIC_URL=url).stdout.splitlines() == [
        "ComfyUI keys",
        "ComfyUI keys <no-reply@keys.example>",
    ]
    named = start(tmp_path, *shown, PUBLIC_URL=url, SITE_NAME="Studio,  Lyon").stdout.splitlines()
    assert named == ["Studio, Lyon", '"Studio, Lyon" <no-reply@keys.example>']


@pytest.mark.parametrize("name", ["Studio\nBcc: eve@evil.example", "<b>", 'a "b"', "e" * 41])
def test_a_name_that_can_not_be_a_sender_is_an_error(tmp_path, name):
    assert "must" in errors(tmp_path, SITE_NAME=name)["SITE_NAME"]


# Lifetimes of keys.
LIFETIMES = ("KEY_LIFETIME_DEFAULT", "KEY_LIFETIME_MAX")


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, ["None", "None"]),
        ({"KEY_LIFETIME_DEFAULT": "90"}, ["90 days, 0:00:00", "None"]),
        ({"KEY_LIFETIME_MAX": "365"}, ["365 days, 0:00:00", "365 days, 0:00:00"]),
        (
            {"KEY_LIFETIME_DEFAULT": "1", "KEY_LIFETIME_MAX": "1"},
            ["1 day, 0:00:00", "1 day, 0:00:00"],
        ),
        ({"KEY_LIFETIME_DEFAULT": "Never", "KEY_LIFETIME_MAX": "never"}, ["None", "None"]),
    ],
)
def test_lifetimes_are_days_or_never(tmp_path, variables, shown):
    assert start(tmp_path, *LIFETIMES, **variables).stdout.splitlines() == shown


def test_bad_lifetimes_are_in_one_report(tmp_path):
    started = start(tmp_path, KEY_LIFETIME_DEFAULT="0", KEY_LIFETIME_MAX="ninety")
    assert started.returncode == 1
    for name in LIFETIMES:
        assert f"  {name}: must be a number of days from 1 to 36500, or never." in started.stderr


@pytest.mark.parametrize("default", ["31", "never"])
def test_a_default_above_the_maximum_is_an_error(tmp_path, default):
    started = start(tmp_path, KEY_LIFETIME_DEFAULT=default, KEY_LIFETIME_MAX="30")
    assert started.returncode == 1
    assert "KEY_LIFETIME_DEFAULT: must be at most KEY_LIFETIME_MAX, which is 30" in started.stderr


@pytest.mark.parametrize("secret", ["short", "é" * 40])
def test_a_weak_metrics_secret_is_reported(tmp_path, secret):
    found = errors(tmp_path, METRICS="1", METRICS_SECRET=secret)
    assert "at least 32 characters" in found["METRICS_SECRET"]
    assert secret not in found["METRICS_SECRET"]


def test_a_folder_for_metrics_that_is_missing_is_reported_if_metrics_are_on(tmp_path):
    missing = str(tmp_path / "missing")
    assert "METRICS_FOLDER" in errors(tmp_path, METRICS="1", METRICS_FOLDER=missing)
    assert "METRICS_FOLDER" not in errors(tmp_path, METRICS_FOLDER=missing, PORT="x")


# Days after which old rows are deleted.
RETENTION = ("RETAIN_HOURLY_USE", "RETAIN_DAILY_USE", "RETAIN_REVOKED_KEYS", "RETAIN_AUDIT_EVENTS")


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, ["92", "730", "365", "None"]),
        (
            {"RETAIN_HOURLY_USE": "100", "RETAIN_DAILY_USE": "100", "RETAIN_AUDIT_EVENTS": "30"},
            ["100", "100", "365", "30"],
        ),
        (dict.fromkeys(RETENTION, "never"), ["None"] * 4),
        (dict.fromkeys(RETENTION, ""), ["92", "730", "365", "None"]),
    ],
)
def test_old_rows_are_deleted_after_days_or_never(tmp_path, variables, shown):
    found = start(tmp_path, *RETENTION, **variables).stdout.splitlines()
    assert [line.partition(" days")[0] for line in found] == shown


def test_a_retention_that_reports_need_is_not_shortened(tmp_path):
    found = errors(tmp_path, **dict.fromkeys(RETENTION, "0"), RETAIN_NETWORKS="29")
    for name in RETENTION[:3]:
        assert "must be a number of days from 92 to 36500, or never." in found[name]
    for name in (RETENTION[3], "RETAIN_NETWORKS"):
        assert "must be a number of days from 30 to 36500, or never." in found[name]


@pytest.mark.parametrize("hourly", ["101", "never"])
def test_days_are_stored_as_long_as_hours(tmp_path, hourly):
    found = errors(tmp_path, RETAIN_HOURLY_USE=hourly, RETAIN_DAILY_USE="100")
    assert "must be at least RETAIN_HOURLY_USE" in found["RETAIN_DAILY_USE"]
