"""The command `comfy-key`: get a key for a machine, and validate one.

The key alone is written to standard output, or to the named files. All messages are on standard
error.
"""

import argparse
import getpass
import os
import platform
import sys
import webbrowser
from collections.abc import Sequence
from typing import Final

import httpx

from comfy_keys import platform_url
from comfy_keys.client import Client
from comfy_keys.credential_stores import VARIABLE, ComfyCli, EnvFile
from comfy_keys.device import DeviceAuthorization, DeviceLogin, LoginRefused
from comfy_keys.errors import NoVerdict
from comfy_keys.key_format import looks_right
from comfy_keys.transport import DeadlineTransport
from comfy_keys.verdicts import GoodVerdict
from comfy_keys.version import VERSION

DONE: Final = 0
INVALID: Final = 1
USAGE: Final = 2
CANNOT_KNOW: Final = 3
NOT_WRITTEN: Final = 4
STOPPED: Final = 130

_EXIT_CODES: Final = """\
exit codes:
  0    success; with check: the key is valid
  1    the request was denied or not confirmed in time; with check: the key is not valid
  2    wrong usage, or a file that can't be written (no key was requested)
  3    the site can't be reached or is unavailable: try again
  4    a key was created but could not be stored: delete it in the list of API keys
  130  stopped by Ctrl-C
"""
_LOGIN: Final = """\
Creates an API key for this device. The command shows a URL and a code. Open the URL in a browser on
any device, log in, enter the code and confirm. The key alone is printed on standard output, unless
an option writes it to a file:

  export COMFY_API_KEY=$(comfy-key login --url https://keys.example.org)
  comfy-key login --url https://keys.example.org --write-env .env
  comfy-key login --url https://keys.example.org --comfy-cli

ComfyUI itself reads no variable and no file: paste the key into its dialog (the user icon at the
top right, Comfy API Key). comfy-cli and scripts read COMFY_API_KEY.
"""
_CHECK: Final = """\
Checks whether a key is valid, and prints its owner, or what is wrong with it. The key is read from
COMFY_API_KEY or from standard input. It is not an argument, because other users of this device can
read the arguments of programs.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.url = platform_url.normalize(options.url or "")
        if not platform_url.is_private(options.url):
            _print_message("Warning: over plain http the key is sent unencrypted.")
        run = _login if options.command == "login" else _check
        return run(options)
    except KeyboardInterrupt:
        _print_message("\nStopped.")
        return STOPPED
    except LoginRefused as refused:
        _print_message(str(refused))
        return INVALID
    except NoVerdict as problem:
        _print_message(str(problem))
        return CANNOT_KNOW
    except ValueError as error:
        _print_message(str(error))
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comfy-key",
        description="API keys for ComfyUI from a self-hosted site.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"comfy-key {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="login|check")
    for name, text in (("login", _LOGIN), ("check", _CHECK)):
        command = commands.add_parser(
            name,
            help=text.split(". ")[0].replace("\n", " "),
            description=text,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument(
            "--url",
            default=os.environ.get("COMFY_API_BASE_URL"),
            help="the URL of the site (default: COMFY_API_BASE_URL, as for comfy-cli)",
        )
        if name == "check":
            command.add_argument(
                "--stdin",
                action="store_true",
                help=f"read the key from standard input, even if {VARIABLE} is set",
            )
            continue
        command.add_argument(
            "--name", default=platform.node(), help="the name of this device (default: %(default)s)"
        )
        command.add_argument(
            "--scope",
            help="the permissions of the key, such as 'proxy:*' (default: sign in and "
            "use API nodes)",
        )
        command.add_argument(
            "--print",
            action="store_true",
            help="print the key on standard output, even if it is also written to a file",
        )
        command.add_argument(
            "--write-env",
            metavar="FILE",
            help=f"write {VARIABLE}=… to FILE, readable only by you; other lines stay",
        )
        command.add_argument(
            "--comfy-cli",
            action="store_true",
            help="store the key where `comfy cloud set-key` does",
        )
        command.add_argument(
            "--open", action="store_true", help="open the URL in the browser of this device"
        )
    return parser


def _login(options: argparse.Namespace) -> int:
    stores: list[EnvFile | ComfyCli] = []
    if options.write_env:
        stores.append(EnvFile(options.write_env))
    if options.comfy_cli:
        stores.append(ComfyCli())
    for store in stores:
        try:
            store.check()
        except (OSError, ValueError) as error:
            _print_message(f"{store.path} can't be written: {_reason(error)}")
            return USAGE

    transport = DeadlineTransport(platform_url.ssl_context())
    with httpx.Client(transport=transport, trust_env=False) as http:
        login = DeviceLogin(options.url, http=http)
        endpoints, request = login.start(name=options.name, scope=options.scope)
        _show(request, open_browser=options.open)
        key = login.wait(endpoints, request)
        written = _store_key(key, stores, options)
        if not any(written):
            if login.revoke(endpoints, key):
                _print_message("The key was deleted, because it could not be stored. Start again.")
            else:
                _print_message("Delete the key in your list of API keys, and start again.")
    return DONE if all(written) else NOT_WRITTEN


def _store_key(
    key: str, stores: list[EnvFile | ComfyCli], options: argparse.Namespace
) -> list[bool]:
    """Write the key to each store, and return for each whether that succeeded."""
    written = []
    for store in stores:
        try:
            store.write(key)
            _print_message(f"The key was written to {store.path}.")
        except (OSError, ValueError) as error:
            _print_message(f"The key could not be written to {store.path}: {_reason(error)}")
            written.append(False)
        else:
            written.append(True)
            if isinstance(store, ComfyCli):
                _explain_comfy_cli(options.url, store)
    if options.print or not stores:
        # Flushed here, so that a full disk or a closed pipe is an error.
        try:
            print(key, flush=True)
            written.append(True)
        except OSError as error:
            _print_message(f"The key could not be printed: {_reason(error)}")
            written.append(False)
    return written


def _show(request: DeviceAuthorization, *, open_browser: bool) -> None:
    _print_message(
        f"Open {_printable(request.page)}\nand enter the code {_printable(request.user_code)}"
    )
    if request.link is not None:
        _print_qr_code(request.link)
    if open_browser and not webbrowser.open(request.link or request.page):
        _print_message("No browser could be started. Open the URL on another device.")
    _print_message("Waiting for you to confirm. Press Ctrl-C to stop.")


def _print_qr_code(link: str) -> None:
    """Print the link as a QR code, with `pip install comfy-keys[qr]`."""
    if not sys.stderr.isatty() or "utf" not in sys.stderr.encoding.lower():
        return
    try:
        import qrcode
    except ImportError:
        return
    picture = qrcode.QRCode(border=2)
    picture.add_data(link)
    # Terminals are dark, so the light parts are printed.
    picture.print_ascii(out=sys.stderr, invert=True)


def _explain_comfy_cli(url: str, store: ComfyCli) -> None:
    _print_message(
        "Without these, comfy-cli sends the key to comfy.org:\n"
        f"  export COMFY_API_BASE_URL={url}\n"
        f"  export COMFY_CLOUD_BASE_URL={url}\n"
        f"  export COMFY_BUILDER_URL={url}\n"
        f"  export COMFY_DEPLOY_URL={url}\n"
        "This site runs no workflows. Use: comfy run --where local"
    )
    if store.has_session():
        _print_message(
            "comfy-cli has another login, which it prefers. Log out of it: comfy cloud logout"
        )
    for name in (VARIABLE, "COMFY_CLOUD_API_KEY"):
        if os.environ.get(name):
            _print_message(f"{name} is set, and comfy-cli prefers it.")


def _check(options: argparse.Namespace) -> int:
    key = "" if options.stdin else os.environ.get(VARIABLE, "")
    if not key.strip():
        key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline(1000)
    key = key.strip()
    if not key:
        raise ValueError(f"No key was found in {VARIABLE} or on standard input.")
    # The user wants the current state, and has been warned of plain http.
    with Client(options.url, cache_for=0, allow_http=True) as client:
        verdict = client.validate(key)
    if verdict:
        print(_printable(_describe_key(verdict)))
        return DONE
    print(_printable(verdict.message))
    if not looks_right(key):
        print(_printable(_describe_mistake(key)))
    return INVALID


def _describe_key(verdict: GoodVerdict) -> str:
    key, customer = verdict.key, verdict.customer
    until = "" if key.expires_at is None else f", expires {key.expires_at:%Y-%m-%d %H:%M %Z}"
    return (
        f"Valid: {key.name} ({key.prefix}…) of {customer.name} <{customer.email}>, "
        f"permissions {' '.join(key.scopes) or 'none'}{until}."
    )


def _describe_mistake(key: str) -> str:
    """Describe the error in a mistyped key, without showing the key."""
    if not key.startswith("comfyui-"):
        return "It does not start with comfyui-."
    if len(key) != 72:
        return f"It has {len(key)} characters; keys have 72."
    if key != key.lower():
        return "Keys contain no capital letters."
    return "At least one of its characters is wrong."


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return (
        "It does not have the format of comfy-cli." if isinstance(error, ValueError) else str(error)
    )


def _printable(text: str) -> str:
    """Return `text` of a server without control characters, which would control a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)[:500]


def _print_message(text: str) -> None:
    print("\n".join(map(_printable, text.split("\n"))), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
