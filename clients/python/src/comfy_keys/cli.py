"""The command `comfy-key`: a key for a machine, and whether one is good.

The key is on standard output, alone, or in the files that were named. Everything else that is said
is on standard error.
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

from comfy_keys import address
from comfy_keys.client import Client
from comfy_keys.device import Machine, Refused, Request
from comfy_keys.errors import NoVerdict
from comfy_keys.keys import looks_right
from comfy_keys.places import VARIABLE, ComfyCli, EnvFile
from comfy_keys.verdicts import Verdict
from comfy_keys.version import VERSION

DONE: Final = 0
NO: Final = 1
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
    """Runs the command and returns its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        asked.url = address.read(asked.url or "")
        if not address.is_private(asked.url):
            _say("Warning: over plain http the key crosses the network in the clear.")
        run = _login if asked.command == "login" else _check
        return run(asked)
    except KeyboardInterrupt:
        _say("\nStopped.")
        return STOPPED
    except Refused as refused:
        _say(str(refused))
        return NO
    except NoVerdict as problem:
        _say(str(problem))
        return CANNOT_KNOW
    except ValueError as error:
        _say(str(error))
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
    for name, words in (("login", _LOGIN), ("check", _CHECK)):
        command = commands.add_parser(
            name,
            help=words.split(". ")[0].replace("\n", " "),
            description=words,
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


def _login(asked: argparse.Namespace) -> int:
    places: list[EnvFile | ComfyCli] = []
    if asked.write_env:
        places.append(EnvFile(asked.write_env))
    if asked.comfy_cli:
        places.append(ComfyCli())
    for place in places:
        try:
            place.check()
        except (OSError, ValueError) as error:
            _say(f"Nothing can be written to {place.path}: {_reason(error)}")
            return USAGE

    with httpx.Client(verify=address.trusted(), trust_env=False) as http:
        machine = Machine(asked.url, http=http)
        endpoints, request = machine.ask(name=asked.name, scope=asked.scope)
        _show(request, open_browser=asked.open)
        key = machine.wait(endpoints, request)
        kept = _keep(key, places, asked)
        if not any(kept):
            if machine.give_back(endpoints, key):
                _say("The key was deleted again, as nobody has it. Start again.")
            else:
                _say("Delete it in the list of keys, and start again.")
    return DONE if all(kept) else NOT_WRITTEN


def _keep(key: str, places: list[EnvFile | ComfyCli], asked: argparse.Namespace) -> list[bool]:
    """Writes the key wherever it was asked for; whether that worked, for each place."""
    kept = []
    for place in places:
        try:
            place.write(key)
            _say(f"The key is in {place.path}.")
        except (OSError, ValueError) as error:
            _say(f"The key could not be written to {place.path}: {_reason(error)}")
            kept.append(False)
        else:
            kept.append(True)
            if isinstance(place, ComfyCli):
                _tell_of_comfy_cli(asked.url, place)
    if asked.print or not places:
        # Flushed here, so that a full disk or a closed pipe is no success.
        try:
            print(key, flush=True)
            kept.append(True)
        except OSError as error:
            _say(f"The key could not be printed: {_reason(error)}")
            kept.append(False)
    return kept


def _show(request: Request, *, open_browser: bool) -> None:
    _say(f"Open {_plain(request.page)}\nand type the code {_plain(request.user_code)}")
    if request.link is not None:
        _draw(request.link)
    if open_browser and not webbrowser.open(request.link or request.page):
        _say("No browser could be started here: open the address on another machine.")
    _say("Waiting for you to agree there. Ctrl-C stops.")


def _draw(link: str) -> None:
    """The link as a QR code, for whoever has a phone and `pip install comfy-keys[qr]`."""
    if not sys.stderr.isatty() or "utf" not in sys.stderr.encoding.lower():
        return
    try:
        import qrcode
    except ImportError:
        return
    picture = qrcode.QRCode(border=2)
    picture.add_data(link)
    # Terminals are dark: what is printed is the light part.
    picture.print_ascii(out=sys.stderr, invert=True)


def _tell_of_comfy_cli(url: str, store: ComfyCli) -> None:
    _say(
        "Without these, comfy-cli sends the key to cloud.comfy.org and api.comfy.org:\n"
        f"  export COMFY_API_BASE_URL={url}\n"
        f"  export COMFY_CLOUD_BASE_URL={url}"
    )
    if store.is_signed_in():
        _say("comfy-cli is signed in elsewhere, and prefers that: comfy cloud logout")
    for name in (VARIABLE, "COMFY_CLOUD_API_KEY"):
        if os.environ.get(name):
            _say(f"{name} is set, and comfy-cli prefers that.")


def _check(asked: argparse.Namespace) -> int:
    key = "" if asked.stdin else os.environ.get(VARIABLE, "")
    if not key.strip():
        key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline(1000)
    key = key.strip()
    if not key:
        raise ValueError(f"There is no key, neither in {VARIABLE} nor on standard input.")
    # Whoever asks by hand wants to know how it is now, and has been warned of plain http.
    with Client(asked.url, cache_for=0, allow_http=True) as client:
        verdict = client.validate(key)
    if verdict:
        print(_plain(_praise(verdict)))
        return DONE
    print(_plain(verdict.message))
    if not looks_right(key):
        print(_plain(_mistake(key)))
    return NO


def _praise(verdict: Verdict) -> str:
    key, customer = verdict.key, verdict.customer
    if key is None or customer is None:
        raise TypeError("a good verdict says whose key it is")
    until = "" if key.expires_at is None else f", until {key.expires_at:%Y-%m-%d %H:%M %Z}"
    return (
        f"Good: {key.name} ({key.prefix}…) of {customer.name} <{customer.email}>, "
        f"for {' '.join(key.scopes) or 'nothing'}{until}."
    )


def _mistake(key: str) -> str:
    """What one can see of a mistyped key, without showing it."""
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


def _plain(text: str) -> str:
    """What a server said, without what would steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)[:500]


def _say(text: str) -> None:
    print("\n".join(map(_plain, text.split("\n"))), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
