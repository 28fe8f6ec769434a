"""The page of a run in headless Chromium: no errors, sorting, hints by pointer and keys, narrow screens, the policy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.report.page.page import write_report
from support import made_run
from support.made_run import FAR, HOSTILE, NEAR, SMALL

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,900",
)
PHONE = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="Chromium or its driver is not installed (Debian: chromium chromium-driver)",
)


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    started.set_script_timeout(20)
    yield started
    started.quit()


@pytest.fixture
def shown(browser: Any, page: Path) -> Any:
    """The page, freshly loaded on a wide screen."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    return browser


def tip(browser: Any) -> str:
    """The text of the hint that is shown; empty where none is."""
    return str(browser.execute_script("const t = document.getElementById('tip'); return t.hidden ? '' : t.textContent"))


def into_view(browser: Any, element: Any) -> None:
    """Scrolls there at once, without the page's own gliding."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)


def column(browser: Any, table: int, place: int) -> list[str]:
    """The keys of one column of a sortable table."""
    script = (
        "return Array.from(document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows)"
        ".map(row => row.cells[arguments[1]].dataset.key)"
    )
    return [str(value) for value in browser.execute_script(script, table, place)]


def test_the_page_loads_without_a_word_in_the_console(shown: Any) -> None:
    """No error, no warning; nothing but the page itself is requested; no name has become a script."""
    assert shown.get_log("browser") == []
    requested = shown.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in requested if not name.startswith("data:")] == []
    assert shown.title == "901 Target: sequential transfer report"


def test_the_policy_forbids_the_network_and_other_scripts(shown: Any) -> None:
    """What would be loaded or run from elsewhere is refused by the page's own policy."""
    refused = shown.execute_async_script(
        "const done = arguments[arguments.length - 1]; const found = new Set();"
        "document.addEventListener('securitypolicyviolation', event => {"
        "  found.add(event.effectiveDirective); if (found.size === 3) done(Array.from(found).sort()); });"
        "const image = new Image(); image.src = 'https://pictures.invalid/a.png';"
        "fetch('https://data.invalid/').catch(() => {});"
        "const script = document.createElement('script'); script.textContent = 'document.title = 1';"
        "document.body.append(script);"
    )
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert shown.title == "901 Target: sequential transfer report"


def test_pressing_a_header_sorts(shown: Any) -> None:
    """Numbers as numbers, once rising, again falling, missing ones last; the state is told to screen readers."""
    header = shown.find_elements("css selector", "table.sortable")[1].find_elements("css selector", "thead th")[1]
    button = header.find_element("css selector", "button")
    into_view(shown, button)
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    rising = [float(value) for value in column(shown, 1, 1)]
    assert rising == sorted(rising) and len(rising) == 33
    button.send_keys("\n")
    assert header.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(shown, 1, 1)] == sorted(rising, reverse=True)
    first = shown.find_elements("css selector", "table.sortable")[0].find_elements("css selector", "thead th")
    into_view(shown, first[0])
    first[0].find_element("css selector", "button").click()
    assert column(shown, 0, 0) == sorted(column(shown, 0, 0))
    first[4].find_element("css selector", "button").click()
    assert column(shown, 0, 4) == ["0.46", "", "", ""]


def test_pointing_at_a_task_shows_more(shown: Any) -> None:
    """With the pointer and with the keyboard, names as text; Escape and leaving hide it."""
    from selenium.webdriver import ActionChains

    task = shown.find_element("css selector", "svg.graph.wide g[tabindex]")
    into_view(shown, task)
    ActionChains(shown).move_to_element(task).perform()
    assert tip(shown).startswith("Dataset902_Near\n6 labelled cases\ndistance to the target 0.400")
    assert HOSTILE in tip(shown)
    ActionChains(shown).send_keys("\ue00c").perform()
    assert tip(shown) == ""
    shown.execute_script("arguments[0].focus()", task)
    assert tip(shown).startswith("Dataset902_Near")
    shown.execute_script("arguments[0].blur()", task)
    assert tip(shown) == ""


def test_arrow_keys_walk_through_the_heat_map(shown: Any) -> None:
    """One stop for Tab; an arrow key moves to the neighbour, whose distance and parts are told."""
    from selenium.webdriver import ActionChains

    cells = shown.find_elements("css selector", "table.heat td[tabindex='0']")
    assert len(cells) == 1
    into_view(shown, cells[0])
    ActionChains(shown).move_to_element(cells[0]).perform()
    assert tip(shown) == "from Dataset901_Target\nto Dataset902_Near\ndistance 0.400\nimage 0.400\nlabel 0.400"
    shown.execute_script("arguments[0].focus()", cells[0])
    ActionChains(shown).send_keys("\ue014").perform()  # right
    assert tip(shown).startswith("from Dataset901_Target\nto Dataset905_Small\ndistance 0.7")
    ActionChains(shown).send_keys("\ue015\ue015").perform()  # down, down
    assert tip(shown) == "Dataset905_Small"
    ActionChains(shown).send_keys("\ue013").perform()  # up
    assert tip(shown).startswith("from Dataset902_Near\nto Dataset905_Small")


def test_curves_tell_their_values(shown: Any) -> None:
    """The pointer tells the nearest epoch, arrow keys walk on from it."""
    from selenium.webdriver import ActionChains

    plot = shown.find_elements("css selector", "svg.plot")[0]
    into_view(shown, plot)
    ActionChains(shown).move_to_element(plot).perform()
    epoch = int(tip(shown).split("\n")[0].removeprefix("epoch "))
    assert 5 <= epoch <= 8 and "mean 0." in tip(shown)
    shown.execute_script("arguments[0].focus()", plot)
    ActionChains(shown).send_keys("\ue014").perform()
    assert tip(shown).startswith(f"epoch {epoch + 1}\n")
    assert shown.find_elements("css selector", "svg.plot .cursor.on")


@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_the_page_does_not_scroll_sideways(shown: Any, width: int) -> None:
    """What is wider than the screen scrolls by itself; one graph is shown, the one for this width."""
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**PHONE, "width": width, "mobile": width < 600})
    shown.refresh()
    inner, outer = shown.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert inner <= outer == width
    graphs = [graph.is_displayed() for graph in shown.find_elements("css selector", "svg.graph")]
    assert graphs == ([False, True] if width <= 640 else [True, False])


def test_every_text_of_a_drawing_is_large_enough_on_a_phone(shown: Any) -> None:
    """At 400 pixels no shown text is drawn smaller than 8 pixels."""
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    shown.refresh()
    smallest = shown.execute_script(
        "const seen = Array.from(document.querySelectorAll('svg text')).filter(t => t.getBoundingClientRect().width);"
        "return Math.min(...seen.map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"
    )
    assert smallest >= 8


def test_it_prints(shown: Any, tmp_path: Path) -> None:
    """The page becomes a PDF of a few pages, tables and maps at their full width."""
    import base64

    made = shown.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69})
    (tmp_path / "page.pdf").write_bytes(base64.b64decode(made["data"]))
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
