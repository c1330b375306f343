"""A real browser looks at a page: how wide it is, what colours it has, what it says, what it complains of.

Any browser that can be started without a window will do. The page is shown in frames of the widths that are asked for, by
a page of ours that measures them and sends what it found back to the server here; nothing but this machine is reached.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FIREFOX = ("firefox", "firefox-esr")
SECONDS = 90
LAST = "this is the last complaint"
MEASURE = """
const WIDTHS = %s;
const channel = value => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
function background(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const c = parts(view.getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c;
  }
  return [255, 255, 255];
}
function contrast(element, view) {
  const style = view.getComputedStyle(element);
  const colour = parts(element.closest("svg") ? style.fill : style.color);
  const [a, b] = [light(colour), light(background(element, view))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}
function look(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const all = [...page.body.querySelectorAll("*")];
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !["TITLE", "title", "desc"].includes(e.tagName);
  const box = e => e.getBoundingClientRect();
  const shown = all.filter(e => box(e).width > 1 && !e.closest(".skip"));
  const name = e => e.tagName + "." + (e.className.baseVal ?? e.className) + ": " + e.textContent.trim().slice(0, 40);
  const plots = [...page.querySelectorAll("svg.raw")];
  return {
    width: root.clientWidth, needs: root.scrollWidth, language: root.lang, title: page.title,
    background: view.getComputedStyle(page.body).backgroundColor, text: page.body.innerText,
    outside: shown.filter(e => !e.closest(".scroll, svg") && box(e).right > root.clientWidth + 1).map(name),
    cut: shown.filter(e => e.tagName === "text" && (box(e).left < -1 || box(e).right > root.clientWidth + 1)).map(name),
    touching: shown.filter(e => e.matches("td, th") && !e.querySelector("svg") && e.scrollWidth > e.clientWidth + 1).map(name),
    faint: shown.filter(e => says(e) && contrast(e, view) < 4.5).map(e => name(e) + " " + contrast(e, view).toFixed(2)),
    fetched: view.performance.getEntriesByType("resource").map(e => e.name),
    plots: plots.map(e => ({width: box(e).width, dots: [...e.querySelectorAll("path")].map(p => box(p).width)})),
  };
}
const seen = {};
WIDTHS.forEach(width => {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => {
    try { seen[width] = look(frame); } catch (error) { seen[width] = {error: String(error)}; }
    if (Object.keys(seen).length < WIDTHS.length) return;
    console.error("%s");
    fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
  };
  frame.src = "/page.html";
  document.body.append(frame);
});
"""


class Seen(NamedTuple):
    """What the page was at each width, and the lines in which the browser complained."""

    at: dict[int, dict[str, Any]]
    complaints: Sequence[str]


def find() -> str | None:
    """A browser that is installed."""
    return next((path for name in (*CHROMIUM, *FIREFOX) if (path := shutil.which(name))), None)


def look(browser: str, page: str, scheme: str, widths: Sequence[int], scratch: Path) -> Seen:
    """Show ``page`` to someone who prefers the colour scheme ``scheme``."""
    with _served(page, widths) as (address, answers):
        log = scratch / "log"
        with log.open("wb") as output, _running(_command(browser, address, scheme, scratch), output):
            try:
                found = answers.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"{browser} gave no answer: {log.read_text('utf-8', 'replace')}") from None
            _wait_for(LAST, log)
    lines = log.read_text("utf-8", "replace").splitlines()
    complaints = [line for line in lines if any(word in line for word in ("CONSOLE", "console.", "JavaScript "))]
    return Seen({int(width): value for width, value in found.items()}, [c for c in complaints if LAST not in c])


def _wait_for(text: str, log: Path) -> None:
    """Until the browser has written ``text``, and with it whatever it complained of before."""
    until = time.monotonic() + SECONDS
    while text not in log.read_text("utf-8", "replace"):
        assert time.monotonic() < until, f"{log} does not hold {text}"
        time.sleep(0.02)


def _command(browser: str, address: str, scheme: str, scratch: Path) -> list[str]:
    profile = scratch / "profile"
    profile.mkdir()
    if Path(browser).name in FIREFOX:
        preferences = {"ui.systemUsesDarkTheme": int(scheme == "dark"), "devtools.console.stdout.content": True}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()]
        (profile / "user.js").write_text("".join(lines))
        return [browser, "--headless", "--no-remote", "--profile", str(profile), address]
    number = 0 if scheme == "dark" else 1
    words = [
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    words += [f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={number}"]
    words += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # it refuses to run as root else
    return [browser, *words, address]


@contextlib.contextmanager
def _running(command: Sequence[str], output: Any) -> Iterator[None]:
    """A browser; whatever it started goes with it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _served(page: str, widths: Sequence[int]) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    outer = "<!doctype html><title>x</title><link rel=icon href=data:,><body><script>" + MEASURE % (
        json.dumps(list(widths)),
        LAST,
    )
    texts = {"/": outer + "</script>", "/page.html": page}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = texts.get(self.path)
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", answers
        finally:
            server.shutdown()
            thread.join()
