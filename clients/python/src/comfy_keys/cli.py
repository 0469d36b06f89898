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
  0    done; with check: the key is good
  1    no: refused, nobody agreed in time; with check: the key is not good
  2    wrong usage, or a place that can't be written to (nothing was asked for)
  3    the platform can't be reached or can't say: try again
  4    a key was made but could not be written: delete it in the list of keys
  130  stopped by Ctrl-C
"""
_LOGIN: Final = """\
Gives this machine an API key of its own. It shows a code; open the address that it shows in any
browser, on any machine, sign in, type the code and agree. The key is printed, alone, on standard
output, unless it is to be written somewhere:

  export COMFY_API_KEY=$(comfy-key login --url https://keys.example.org)
  comfy-key login --url https://keys.example.org --write-env .env
  comfy-key login --url https://keys.example.org --comfy-cli

ComfyUI itself reads no variable and no file: paste the key into its own dialog (the person at the
top right, Comfy API Key). comfy-cli and scripts read COMFY_API_KEY.
"""
_CHECK: Final = """\
Says whether a key is good and whose it is, or what is wrong with it. The key is read from
COMFY_API_KEY, or from standard input; it is no argument, because those can be read by everybody on
the machine.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.url = platform_url.normalize(options.url or "")
        if not platform_url.is_private(options.url):
            _print_message("Warning: over plain http the key crosses the network in the clear.")
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
        description="Keys for ComfyUI from a platform of one's own.",
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
            help="the platform's address (default: COMFY_API_BASE_URL, as for comfy-cli)",
        )
        if name == "check":
            command.add_argument(
                "--stdin", action="store_true", help=f"read the key there, whatever {VARIABLE} is"
            )
            continue
        command.add_argument(
            "--name", default=platform.node(), help="this machine's name (default: %(default)s)"
        )
        command.add_argument(
            "--scope",
            help="what the key may be used for, such as 'proxy:*' (default: to sign in; proxies)",
        )
        command.add_argument(
            "--print",
            action="store_true",
            help="print the key on standard output, even if it is written somewhere as well",
        )
        command.add_argument(
            "--write-env",
            metavar="FILE",
            help=f"write {VARIABLE}=… into FILE, readable by you alone; other lines stay",
        )
        command.add_argument(
            "--comfy-cli", action="store_true", help="keep it where `comfy cloud set-key` does"
        )
        command.add_argument(
            "--open", action="store_true", help="open the address in this machine's browser"
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
            _print_message(f"Nothing can be written to {store.path}: {_reason(error)}")
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
                _print_message("The key was deleted again, as nobody has it. Start again.")
            else:
                _print_message("Delete it in the list of keys, and start again.")
    return DONE if all(written) else NOT_WRITTEN


def _store_key(
    key: str, stores: list[EnvFile | ComfyCli], options: argparse.Namespace
) -> list[bool]:
    """Write the key to each store, and return for each whether that succeeded."""
    written = []
    for store in stores:
        try:
            store.write(key)
            _print_message(f"The key is in {store.path}.")
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
        f"Open {_printable(request.page)}\nand type the code {_printable(request.user_code)}"
    )
    if request.link is not None:
        _print_qr_code(request.link)
    if open_browser and not webbrowser.open(request.link or request.page):
        _print_message("No browser could be started here: open the address on another machine.")
    _print_message("Waiting for you to agree there. Ctrl-C stops.")


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
        "The platform runs no workflows: comfy run --where local"
    )
    if store.has_session():
        _print_message("comfy-cli is signed in elsewhere, and prefers that: comfy cloud logout")
    for name in (VARIABLE, "COMFY_CLOUD_API_KEY"):
        if os.environ.get(name):
            _print_message(f"{name} is set, and comfy-cli prefers that.")


def _check(options: argparse.Namespace) -> int:
    key = "" if options.stdin else os.environ.get(VARIABLE, "")
    if not key.strip():
        key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline(1000)
    key = key.strip()
    if not key:
        raise ValueError(f"There is no key, neither in {VARIABLE} nor on standard input.")
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
    until = "" if key.expires_at is None else f", until {key.expires_at:%Y-%m-%d %H:%M %Z}"
    return (
        f"Good: {key.name} ({key.prefix}…) of {customer.name} <{customer.email}>, "
        f"for {' '.join(key.scopes) or 'nothing'}{until}."
    )


def _describe_mistake(key: str) -> str:
    """Describe the error in a mistyped key, without showing the key."""
    if not key.startswith("comfyui-"):
        return "It does not begin with comfyui-."
    if len(key) != 72:
        return f"It has {len(key)} characters; a key has 72."
    if key != key.lower():
        return "A key has no capital letters."
    return "One or more of its characters are wrong, or changed places."


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return "It is not as comfy-cli leaves it." if isinstance(error, ValueError) else str(error)


def _printable(text: str) -> str:
    """Return `text` of a server without control characters, which would control a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)[:500]


def _print_message(text: str) -> None:
    print("\n".join(map(_printable, text.split("\n"))), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
