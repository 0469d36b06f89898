"""Where the server listens, the URLs and hosts that it answers, and the proxies that it trusts."""

import os
from pathlib import Path

from config.parsers import host, in_brackets, network, origin, secret_header
from config.settings.base import LOOPBACK, PRODUCTION, env
from core import origins

env.section("Network")

HOST: str = env.text(
    "HOST",
    default="127.0.0.1",
    help="The IP address or host name to listen on; `0.0.0.0` or `::` for all.",
)
if HOST in {"*", "[::]"} or "/" in HOST or HOST.startswith("["):
    env.add_error("HOST", "must be an IP address or a name of this machine; 0.0.0.0 or :: for all.")
PORT: int = env.integer("PORT", default=8000, least=1, most=65535, help="The port to listen on.")
WORKERS: int = env.integer(
    "WORKERS", default=2, least=1, most=256, help="Number of server processes."
)
BODY_WAIT: float = env.seconds(
    "BODY_WAIT",
    default=30.0,
    least=0.1,
    most=3600,
    help="How long a request may take to arrive with its whole body; then it is answered 408.",
)

TLS: bool = env.boolean(
    "TLS",
    default=False,
    default_help="off, or on with `TLS_CERT`",
    help="Serve https, with a certificate from a local authority in `VAR_DIR/tls/` unless "
    "`TLS_CERT` names another.",
)
TLS_CERT: Path | None = env.file_path("TLS_CERT", help="The file of a certificate of your own.")
TLS_KEY: Path | None = env.file_path("TLS_KEY", help="The file of the private key of `TLS_CERT`.")
if bool(TLS_CERT) != bool(TLS_KEY):
    env.add_error("TLS_CERT", "and TLS_KEY go together: set both or neither.")
elif TLS_CERT and TLS_KEY:
    if env.is_set("TLS") and not TLS:
        env.add_error("TLS", "is off, but TLS_CERT and TLS_KEY are set.")
    for _name, _file in (("TLS_CERT", TLS_CERT), ("TLS_KEY", TLS_KEY)):
        if not os.access(_file, os.R_OK) or not _file.is_file():
            env.add_error(_name, "names no file that can be read.")
TLS = TLS or TLS_CERT is not None

_default_scheme = "https" if TLS else "http"
PUBLIC_URL: str = (
    env.text(
        "PUBLIC_URL",
        required=PRODUCTION,
        default=None if PRODUCTION else f"{_default_scheme}://127.0.0.1:{PORT}",
        default_help="required with `PRODUCTION`; else `http://127.0.0.1:PORT`, https with `TLS`",
        kind="URL without a path",
        help="The URL that browsers and ComfyUI use: links, redirects and passkeys belong to it. "
        "Letters beyond ASCII become `xn--`.",
    )
    or "http://missing.invalid"
)
try:
    public_scheme, PUBLIC_HOST, public_port = origin(PUBLIC_URL)
    # As browsers write it in the header Origin, which it is compared with.
    PUBLIC_URL = (
        f"{public_scheme}://{in_brackets(PUBLIC_HOST)}{f':{public_port}' if public_port else ''}"
    )
except ValueError as _error:
    env.add_error("PUBLIC_URL", str(_error))
    public_scheme, PUBLIC_HOST, public_port = _default_scheme, "missing.invalid", None
if TLS and public_scheme != "https":
    env.add_error("PUBLIC_URL", "must begin with https:// when TLS is on.")

HTTPS = public_scheme == "https"
is_loopback = PUBLIC_HOST in LOOPBACK
# Whether keys, passwords and sessions cross a network in plain text.
PLAINTEXT_PUBLIC = not HTTPS and not is_loopback

OTHER_HOSTS: list[str] = []
for _given in env.strings(
    "ALLOWED_HOSTS",
    help="Other host names or IP addresses of this machine, besides that of `PUBLIC_URL`, that "
    "are answered. Patterns such as `*` are refused.",
):
    try:
        OTHER_HOSTS.append(host(_given))
    except ValueError as _error:
        env.add_error("ALLOWED_HOSTS", f"has {_given!r}, which {_error}")
ALLOWED_HOSTS = [
    *(["127.0.0.1", "localhost", "[::1]"] if is_loopback else [in_brackets(PUBLIC_HOST)]),
    *map(in_brackets, OTHER_HOSTS),
]
# Where a proxy ends TLS, Django sees http, while the browser's Origin header says https.
CSRF_TRUSTED_ORIGINS = [
    PUBLIC_URL,
    *(
        f"{public_scheme}://{in_brackets(_name)}{f':{public_port}' if public_port else ''}"
        for _name in OTHER_HOSTS
    ),
]

TRUSTED_PROXIES: list[str] = []
for _given in env.strings(
    "TRUSTED_PROXIES",
    help="IP addresses or networks of [proxies](deployment.md#behind-a-proxy) that name the IP of "
    "their client. Needs `CLIENT_IP_HEADER` or `PROXIES_DROP_UNDERSCORES`.",
):
    try:
        TRUSTED_PROXIES.append(network(_given))
    except ValueError as _error:
        env.add_error("TRUSTED_PROXIES", f"has {_given!r}, which {_error}")
CLIENT_IP_HEADER: str | None = env.text(
    "CLIENT_IP_HEADER",
    kind="header name",
    help="The header in which the proxies name their client, with a name that no client can guess: "
    "it ends in at least 20 random letters and digits.",
)
PROXIES_DROP_UNDERSCORES: bool = env.boolean(
    "PROXIES_DROP_UNDERSCORES",
    default=False,
    help="The proxies pass on no header with an underscore in its name, so their "
    "`X-Forwarded-For` and `X-Forwarded-Proto` can be trusted.",
)
if CLIENT_IP_HEADER:
    try:
        CLIENT_IP_HEADER = secret_header(CLIENT_IP_HEADER)
    except ValueError as _error:
        env.add_error("CLIENT_IP_HEADER", str(_error))
    if not TRUSTED_PROXIES:
        env.add_error("CLIENT_IP_HEADER", "needs TRUSTED_PROXIES: they are who sends it.")
elif TRUSTED_PROXIES and not PROXIES_DROP_UNDERSCORES:
    # WSGI gives X-Forwarded-For and X_Forwarded_For the same name in the environ.
    env.add_error(
        "TRUSTED_PROXIES",
        "needs one more variable, because a client can forge X-Forwarded-For as X_Forwarded_For. "
        "Either CLIENT_IP_HEADER, the name of a header that no client can guess and in which the "
        "proxy names the client, or PROXIES_DROP_UNDERSCORES=1, if the proxy passes on no header "
        "with an underscore in its name, as nginx does by default. docs/deployment.md "
        "has a command that tests it.",
    )

SITE_WHITELIST: list[str] = []
for _given in env.strings(
    "SITE_WHITELIST",
    help="Origins (https) of the first sites that may sign people in with a key of their own. "
    "Staff edit the list afterwards; this machine's own origins need no entry.",
):
    try:
        SITE_WHITELIST.append(origins.validate_listable(_given))
    except origins.OriginRejected as _rejected:
        if _rejected.reason is not origins.RejectReason.LOOPBACK:
            env.add_error("SITE_WHITELIST", f"has {_given!r}, which is {_rejected.reason}.")
