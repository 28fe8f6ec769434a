"""The page of a run in headless Chromium: no errors, sorting, narrow screens, the policy, print."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.report.page import write_report
from support import made_run
from support.made_run import FAR, HOSTILE, NEAR, SMALL

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed (Debian: chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with all parts, a channel of which is called <script>, and with enough tasks for a map."""
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        made_run.write_world(root / "raw", channel=HOSTILE)
        names = (NEAR, SMALL, FAR, *(f"Dataset{110 + place}_AnotherSource{place}" for place in range(30)))
        made_run.write_made_plan(made_run.write_made_affinity(HOSTILE, names))
        made_run.write_made_comparison()
        write_report(made_run.write_made_run((NEAR, SMALL)), root / "report.html")
    return root / "report.html"


def browse(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page; the profile lies next to it."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={path.parent / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def probe(page: Path, folder: Path, script: str, width: int = 1400) -> Any:
    """Run a script in the page, in a frame of that width, and return what it returns. The policy is taken off."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    call = f"addEventListener('load', () => parent.postMessage(JSON.stringify((() => {{{script}}})()), '*'))"
    (folder / "probed.html").write_text(text.replace("</body>", f"<script>{call}</script></body>"))
    told = "addEventListener('message', event => { document.querySelector('pre').textContent = event.data; })"
    frame = f"<iframe src='probed.html' style='width:{width}px;height:900px;border:0'></iframe>"
    (folder / "frame.html").write_text(f"<!DOCTYPE html><pre></pre><script>{told}</script>{frame}")
    shown = browse(folder / "frame.html", "--dump-dom").stdout
    return json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", shown, re.DOTALL)[0]))


def test_the_page_opens_without_a_word_in_the_console(page: Path, tmp_path: Path) -> None:
    """No error under its own policy; a page that is tampered with is refused images and scripts from elsewhere."""
    own = browse(page, "--dump-dom")
    assert "CONSOLE" not in own.stderr and "<title>901 Target: sequential transfer report</title>" in own.stdout
    extra = "<img src='https://pictures.invalid/a.png'><script>document.title = 1</script></body>"
    (tmp_path / "tampered.html").write_text(page.read_text().replace("</body>", extra))
    tampered = browse(tmp_path / "tampered.html", "--dump-dom")
    assert "img-src" in tampered.stderr and "script-src" in tampered.stderr
    assert "<title>901 Target" in tampered.stdout


def test_pressing_a_header_sorts(page: Path, tmp_path: Path) -> None:
    """Numbers as numbers, once rising, again falling; the state is told to screen readers."""
    script = """
      const column = (table, k) => Array.from(table.tBodies[0].rows, row => row.cells[k].dataset.key);
      const press = (table, k) => {
        const header = table.querySelectorAll("thead th")[k];
        header.querySelector("button").click();
        return [header.getAttribute("aria-sort"), column(table, k)];
      };
      const tables = Array.from(document.querySelectorAll("table.sortable"));
      const byCaption = text => tables.find(table => table.caption.textContent.startsWith(text));
      const far = byCaption("Sources"), paths = byCaption("Candidate");
      return [press(far, 1), press(far, 1), press(paths, 0), press(paths, 3)];
    """
    rising, falling, names, hours = probe(page, tmp_path, script)
    values = [float(value) for value in rising[1]]
    assert rising[0] == "ascending" and values == sorted(values) and len(values) == 33
    assert falling[0] == "descending" and [float(value) for value in falling[1]] == sorted(values, reverse=True)
    assert names[1] == sorted(names[1]) and [float(value) for value in hours[1]] == sorted(map(float, hours[1]))


@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_the_page_does_not_scroll_sideways(page: Path, tmp_path: Path, width: int) -> None:
    """What is wider than the screen scrolls by itself; the figures for this width are shown; texts can be read."""
    script = """
      const root = document.documentElement, seen = svg => svg.getBoundingClientRect().width > 0;
      const texts = Array.from(document.querySelectorAll("svg text")).filter(text => seen(text));
      return [root.scrollWidth, root.clientWidth,
        ...["wide", "narrow"].map(look => Array.from(document.querySelectorAll(`svg.${look}`)).filter(seen).length),
        Math.min(...texts.map(text => {
          const {a, b} = text.getScreenCTM();
          return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
        }))];
    """
    inner, outer, wide, narrow, smallest = probe(page, tmp_path, script, width)
    assert inner <= outer == width
    assert (wide > 0, narrow > 0) == ((False, True) if width <= 640 else (True, False))
    assert smallest >= 7


def test_it_prints(page: Path, tmp_path: Path) -> None:
    """The page becomes a PDF."""
    browse(page, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
