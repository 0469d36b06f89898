"""core.metrics: counting in cells, slots of processes, and what a scrape makes of them."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from apikeys.services import VerdictCode
from core import metrics
from core.metrics import slots
from core.metrics.cells import CounterCells, HistogramCells, Layout
from core.metrics.requests import route_group

ROOT = Path(__file__).parents[2]

# A worker: it counts, prints its slot and the exposition on request, until its input ends.
_WORKER = """
import sys
from pathlib import Path
from core import metrics
from core.metrics import exposition

metrics.start(Path(sys.argv[1]))
metrics.ARGON2_PASSES.inc()
metrics.count(metrics.VALIDATIONS, "VALID", "row")
with metrics.ARGON2_WAITING.track():
    print("ready", flush=True)
    for line in sys.stdin:
        print(exposition.expose("")[0].decode() + "# EOF", flush=True)
"""


class Worker:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def scrape(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("scrape\n")
        self.process.stdin.flush()
        lines = list(iter(self.process.stdout.readline, "# EOF\n"))
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


PASSES = "comfyui_keys_argon2_passes_total"
WAITING = "comfyui_keys_argon2_waiting"
BY_ROW = 'comfyui_keys_validations_total{cache="row",verdict="VALID"}'


def test_a_killed_worker_leaves_its_counts_and_its_slot_and_no_gauge(tmp_path):
    folder = tmp_path / "metrics"
    slots.prepare(folder)
    first, second = Worker(folder), Worker(folder)
    try:
        scraped = second.scrape()
        assert (scraped[PASSES], scraped[BY_ROW], scraped[WAITING]) == (2, 2, 2)
        files = {path.name for path in folder.iterdir()}
        first.kill()
        assert slots.held(folder) == 1
        scraped = second.scrape()
        assert (scraped[PASSES], scraped[BY_ROW], scraped[WAITING]) == (2, 2, 1)
        # The next worker continues the counts, and adds no file.
        first = Worker(folder)
        scraped = second.scrape()
        assert (scraped[PASSES], scraped[BY_ROW], scraped[WAITING]) == (3, 3, 2)
        assert {path.name for path in folder.iterdir()} == files
    finally:
        first.kill()
        second.kill()


def test_a_start_empties_the_folder_and_no_other_user_can_read_it(tmp_path):
    folder = tmp_path / "metrics"
    for _ in range(2):
        slots.prepare(folder)
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "counter_0.db").touch()


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "metrics").symlink_to(tmp_path / "elsewhere")
    for use in (slots.prepare, slots.open_folder):
        with pytest.raises(slots.FolderRefused):
            use(tmp_path / "metrics")


def test_a_process_that_can_not_make_its_files_does_not_count_and_says_so(tmp_path, caplog):
    (tmp_path / "file").touch()
    metrics.start(tmp_path / "file" / "metrics")
    assert metrics.cells is None
    assert metrics.folder is None
    assert "does not count for /metrics" in caplog.text


def test_the_files_of_a_worker_are_allocated(tmp_path):
    folder = tmp_path / "metrics"
    worker = Worker(folder)
    worker.kill()
    files = [path.stat() for path in [*folder.glob("*.db"), *folder.glob("*.cells")]]
    assert len(files) == 6
    assert all(found.st_blocks * 512 >= found.st_size > 0 for found in files)


# --- Cells ---


def test_threads_lose_no_count(tmp_path):
    family = CounterCells("c_total", "", {"of": ("a", "b")})
    cells = Layout(family).open(tmp_path, 0)
    at, number = family.at("b"), 200_000

    def count() -> None:
        for _ in range(number):
            cells[at] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert list(cells) == [0, 4 * number]


def test_cells_of_all_processes_are_added_up(tmp_path):
    counter = CounterCells("c_total", "", {"of": ("a", "b"), "by": ("x", "y")})
    histogram = HistogramCells("h_seconds", "", "of", ("a", "b"), (0.001, 0.01))
    layout = Layout(histogram, counter)
    for slot in (0, 1):
        cells = layout.open(tmp_path, slot)
        cells[counter.at("b", "x")] += 5
        cells[histogram.at("b")] += 1
        cells[histogram.at("b") + 2] += 2
        cells[histogram.at("b") + 3] += 3_000_000_000
    total = layout.total(tmp_path)
    assert sum(total) == 2 * (5 + 1 + 2 + 3_000_000_000)
    assert total[counter.at("b", "x")] == 10
    assert histogram.read(total, "b") == ([("0.001", 2), ("0.01", 2), ("+Inf", 6)], 6.0)


def test_files_of_another_layout_are_not_read(tmp_path):
    family = CounterCells("c_total", "", {"of": ("a",)})
    Layout(family).open(tmp_path, 0)[0] += 1
    assert Layout(CounterCells("c_total", "", {"of": ("a", "b")})).total(tmp_path) == [0, 0]


def test_every_verdict_has_a_cell():
    assert set(metrics.VERDICTS) == set(VerdictCode)


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/customers", "validation"),
        ("/api/v1/keys/validate", "validation"),
        ("/api/v1/auth/prompt", "validation"),
        ("/admin/verify-api-key", "validation"),
        ("/customers/api-keys", "api"),
        ("/api/schema", "api"),
        ("/oauth/token", "oauth"),
        ("/admin/apikeys/apikey/", "staff"),
        ("/static/site.css", "static"),
        ("/metrics", "monitoring"),
        ("/keys/", "pages"),
        ("/comfyui-0123", "pages"),
    ],
)
def test_paths_become_few_groups(path, group):
    assert route_group(path) == group
    assert group in metrics.ROUTES


def test_nothing_is_loaded_and_counted_where_metrics_are_off(tmp_path):
    code = (
        "import sys, django; django.setup(); import config.wsgi\n"
        "from core import metrics\n"
        "metrics.LOGINS.inc('password'); metrics.count(metrics.VALIDATIONS, 'VALID', 'row')\n"
        "assert metrics.cells is None\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    environment = {"VAR_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "config.settings"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


# --- System calls ---

_CACHED = """
import ctypes, os, struct, sys
from pathlib import Path

from apikeys import tokens
from apikeys.cache import middleware
from apikeys.cache.responses import CACHE_DIRECTIVE
from apikeys.cache.versions import VersionTable
from core import metrics
from core.metrics import requests

# Seconds. The check that the table was not replaced is one stat for many requests.
middleware._CHECK_INTERVAL = 1e9
folder, kind = Path(sys.argv[1]), sys.argv[2]
metrics.start(folder / "metrics")
key = os.urandom(32)
token = tokens.make(tag_key=key if kind == "valid" else os.urandom(32)).reveal()

def endpoint(environ, start_response):
    directive = environ[CACHE_DIRECTIVE]
    if kind == "valid":
        directive.allow(key_id=7)
    else:
        directive.allow(is_guess=True)
    start_response("200 OK", [])
    return [b"{}"]

used = []
application = requests.measure(middleware.ValidationCache(
    endpoint,
    versions=VersionTable(folder / "versions"),
    tag_keys=[key],
    routes=[("POST", "/customers")],
    bodiless=[],
    queries={},
    count=used.append,
    count_refusal=lambda *_: None,
    count_guess=lambda _ip: 0,
    language_of=lambda _accepted: "en",
    capacity=10,
    counts=metrics.cells,
    positions={
        **{code: metrics.VALIDATIONS.at(code, "hit") for code in metrics.VERDICTS},
        "RATE_LIMITED": metrics.RATE_LIMITED.at("validation"),
    },
))
environ = {
    "REQUEST_METHOD": "POST", "PATH_INFO": "/customers", "wsgi.url_scheme": "http",
    "REMOTE_ADDR": "192.0.2.7", "HTTP_X_API_KEY": token,
}

def ask(times):
    for _ in range(times):
        application(dict(environ), lambda status, headers: None)

ask(2000)
before = len(used)
# From here on the kernel kills this process at any system call but write and exit_group
# (seccomp(2)): load the number of the call, compare it with each, allow or kill.
write, exit_group = {"x86_64": (1, 231), "aarch64": (64, 94)}[os.uname().machine]
steps = [
    (0x20, 0, 0, 0), (0x15, 2, 0, write), (0x15, 1, 0, exit_group), (0x06, 0, 0, 0x80000000),
    (0x06, 0, 0, 0x7FFF0000),
]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer)))
prctl = ctypes.CDLL(None).prctl
# PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0
ask(1000)
used_then = len(used) - before
verdict = "VALID" if kind == "valid" else "NOT_FOUND"
hits = metrics.cells[metrics.VALIDATIONS.at(verdict, "hit")]
at = metrics.REQUEST_DURATION.at("validation")
timed = sum(metrics.cells[at : at + metrics.REQUEST_DURATION.stride - 1])
os.write(1, f"{used_then} {hits} {timed}".encode())
if sys.argv[3:]:
    os.getpid()
os._exit(0)
"""


def cached_requests(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CACHED, str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["valid", "forged"])
def test_a_cached_response_is_counted_and_timed_without_a_system_call(tmp_path, kind):
    done = cached_requests(tmp_path, kind)
    assert (done.returncode, done.stderr) == (0, "")
    used = 1000 if kind == "valid" else 0
    assert done.stdout == f"{used} 2999 3000"


def test_a_system_call_would_be_noticed(tmp_path):
    done = cached_requests(tmp_path, "valid", "with one")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "1000 2999 3000")


def test_readings_that_fail_leave_out_no_others(tmp_path, monkeypatch):
    from core.metrics import exposition

    def broken():
        yield metrics.Reading("comfyui_keys_half", "Half.", 1)
        raise OSError("no such disk")

    monkeypatch.setattr(metrics, "folder", tmp_path)
    monkeypatch.setattr(metrics, "sources", {})
    metrics.at_scrape("broken", broken)
    metrics.at_scrape("clock", lambda: [metrics.Reading("comfyui_keys_now", "Now.", time.time())])
    text = exposition.expose("")[0].decode()
    assert "comfyui_keys_half" not in text
    assert "\ncomfyui_keys_now " in text
    assert 'comfyui_keys_scrape_errors{source="broken"} 1.0' in text
    assert 'comfyui_keys_scrape_errors{source="clock"} 0.0' in text
