"""The pages in a real browser: typed, clicked, by keyboard alone, on a phone, in the dark, read by axe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from axe_playwright_python.sync_playwright import Axe
from browser import launched
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect
from server_process import Server, serving
from test_server import until

from kserve import Translator
from kserve.api.access import add_key
from kserve.api.service import LOOP_GUARD

pytestmark = pytest.mark.proof

HUND = "Ein Hund rennt über die Wiese."
TEXT = f"  {HUND} Zwei Kinder spielen im Garten.\n\n\tDie Frau liest ein Buch.\n"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
MAX_CHARACTERS = 5_000
_WAIT = 20_000.0  # milliseconds, for a busy machine
expect.set_options(timeout=_WAIT)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = {"max_characters": str(MAX_CHARACTERS)}
    with serving(tiny_bundle.bundle_folder(), tiny_bundle.back_folder(), **limits) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def german() -> Callable[[str], str]:
    translator = Translator(tiny_bundle.bundle_folder(), threads=1)
    return lambda text: translator.translate(text, loop_guard=LOOP_GUARD).text


class Visit:
    """A page in a browser of its own, and what it complained of or asked of others."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.problems: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(_WAIT)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda asked: self._asked(asked.url, address))
        self.page.goto(address)

    def _said(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.problems.append(said.text)

    def _asked(self, url: str, address: str) -> None:
        home = address.split("/")[2]
        if not url.startswith("blob:") and url.split("/")[2] != home:
            self.problems.append(f"asked {url}")

    def type(self, text: str) -> None:
        self.page.get_by_label("Text to translate").fill(text)

    def shows(self, text: str) -> None:
        """Until exactly this is the translation."""
        # Not by the browser's own waiting, which evaluates a string: the pages' policy forbids that.
        assert until(lambda: self.page.locator("#translation").text_content() == text), self.page.locator(
            "#translation"
        ).text_content()


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens a page; afterwards none may have complained."""
    opened: list[tuple[Visit, BrowserContext]] = []

    def go(path: str = "/", address: str = server.url, **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        opened.append((Visit(context, address + path), context))
        return opened[-1][0]

    yield go
    for _, context in opened:
        context.close()
    assert [problem for one, _ in opened for problem in one.problems] == []


def test_typing_translates_with_time_and_speed(visit: Open, german: Callable[[str], str]) -> None:
    page = visit().page
    page.get_by_label("From", exact=True).select_option("de")
    page.get_by_label("Text to translate").press_sequentially(HUND, delay=20)
    expect(page.locator("#translation")).to_have_text(german(HUND))
    expect(page.locator("#timing")).to_have_text(re.compile(r"^[\d.,]+ ms · \d+ tokens · [\d,]+ tokens/s$"))
    expect(page.locator("#translation")).to_have_attribute("lang", "en")
    expect(page.locator("#spoken")).to_have_text(german(HUND))  # what a screen reader is told, once
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#translation")).to_be_empty()
    expect(page.get_by_label("Text to translate")).to_be_focused()


def test_spaces_and_lines_are_kept_and_the_last_text_wins(visit: Open, german: Callable[[str], str]) -> None:
    one = visit()
    one.page.get_by_label("From", exact=True).select_option("de")
    one.type(HUND * 60)  # still under way when the next one is sent
    one.page.wait_for_timeout(200)
    one.type(TEXT)
    one.shows(german(TEXT))


def test_swapping_turns_languages_and_texts(visit: Open, german: Callable[[str], str]) -> None:
    one = visit()
    one.page.get_by_label("From", exact=True).select_option("de")
    one.type(HUND)
    one.shows(german(HUND))
    one.page.get_by_role("button", name="Swap languages").click()
    expect(one.page.get_by_label("From", exact=True)).to_have_value("en")
    expect(one.page.get_by_label("To", exact=True)).to_have_value("de")
    expect(one.page.get_by_label("Text to translate")).to_have_value(german(HUND))
    back = Translator(tiny_bundle.back_folder(), threads=1)
    one.shows(back.translate(german(HUND), loop_guard=LOOP_GUARD).text)


def test_the_language_is_detected_and_named(visit: Open) -> None:
    one = visit()
    one.page.get_by_label("From", exact=True).select_option("auto")
    one.type("Die Kinder spielen heute im Garten, obwohl es seit Stunden regnet.")
    chosen = one.page.locator("#source option:checked")
    expect(chosen).to_have_text(re.compile(r"^German \(\d+ % sure\)$"))


def test_other_translations_of_a_sentence(visit: Open) -> None:
    one = visit()
    one.page.get_by_label("From", exact=True).select_option("de")
    one.type(TEXT)
    sentences = one.page.locator("#translation .sentence")
    expect(sentences).to_have_count(3)
    sentences.nth(1).click()
    others = one.page.locator("#others-list button")
    expect(others.first).to_be_focused()
    assert others.count() > 1
    assert len(set(others.all_inner_texts())) == others.count()
    wanted = others.last.inner_text()
    others.last.click()
    expect(one.page.locator("#others")).to_be_hidden()
    expect(sentences.nth(1)).to_have_text(wanted)
    expect(sentences.nth(1)).to_be_focused()
    assert one.page.locator("#translation").inner_text().startswith("  "), "what is around it is kept"


def test_everything_by_keyboard(visit: Open, german: Callable[[str], str]) -> None:
    one = visit()
    press = one.page.keyboard.press
    press("Tab")
    expect(one.page.get_by_role("link", name="Skip to the text")).to_be_focused()
    press("Enter")
    one.page.keyboard.type(f"{HUND} Wo ist der nächste Bahnhof?")
    expect(one.page.get_by_label("Text to translate")).to_be_focused()
    sentences = one.page.locator("#translation .sentence")
    expect(sentences).to_have_count(2)
    for _ in range(3):  # past the file and the button that clears
        press("Tab")
    expect(sentences.first).to_be_focused()
    press("ArrowRight")
    expect(sentences.nth(1)).to_be_focused()
    press("Enter")
    expect(one.page.locator("#others-list button").first).to_be_focused()
    press("Escape")
    expect(sentences.nth(1)).to_be_focused()
    press("Tab")
    expect(one.page.get_by_role("button", name="Copy the translation")).to_be_focused()


def test_a_file_comes_back_translated(visit: Open, german: Callable[[str], str], tmp_path: Path) -> None:
    letter = tmp_path / "Brief an Anna.txt"
    letter.write_text(TEXT, encoding="utf-8")
    page = visit().page
    page.get_by_label("From", exact=True).select_option("de")
    with page.expect_download() as download:
        page.get_by_label("Translate a file").set_input_files(letter)
    assert Path(download.value.path()).read_text(encoding="utf-8") == german(TEXT)
    assert download.value.suggested_filename.startswith("Brief an Anna")
    expect(page.get_by_role("status")).to_contain_text("is saved")


def test_a_file_of_another_kind_is_refused(visit: Open, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    one = visit()
    one.page.get_by_label("Translate a file").set_input_files(picture)
    expect(one.page.locator("#message.wrong")).to_contain_text("not supported")
    one.problems.clear()  # the browser itself reports the 400


def test_copying(visit: Open, german: Callable[[str], str]) -> None:
    one = visit(permissions=["clipboard-read", "clipboard-write"])
    one.page.get_by_label("From", exact=True).select_option("de")
    one.type(HUND)
    one.shows(german(HUND))
    one.page.get_by_role("button", name="Copy the translation").click()
    expect(one.page.get_by_role("status")).to_have_text("Copied.")
    assert one.page.evaluate("navigator.clipboard.readText()") == german(HUND)


def test_a_text_that_is_too_long(visit: Open) -> None:
    one = visit()
    one.type("a" * (MAX_CHARACTERS + 1))
    expect(one.page.locator("#message.wrong")).to_contain_text("longer than the 5,000 characters")
    expect(one.page.locator("#count")).to_have_text("5,001 / 5,000: too long")


def test_markup_in_a_text_stays_text(visit: Open) -> None:
    one = visit()
    one.type("<img src=x onerror=alert(1)> <b>Hund</b> & {{name}}")
    expect(one.page.locator("#timing")).not_to_be_empty()
    assert one.page.locator("#translation img, #translation b").count() == 0


def test_a_server_that_asks_for_keys(visit: Open, german: Callable[[str], str], tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "reader")
    with serving(tiny_bundle.bundle_folder(), keys=str(tmp_path / "keys")) as guarded:
        one = visit(address=guarded.url)
        one.page.get_by_label("This server asks for an API key").fill(key)
        one.page.get_by_role("button", name="Use it").click()
        expect(one.page.locator("#key-form")).to_be_hidden()
        one.type(HUND)
        one.shows(german(HUND))


def test_a_server_that_goes_away_and_comes_back(visit: Open, german: Callable[[str], str]) -> None:
    one = visit()
    one.page.route("**/v1/translate/stream", lambda route: route.abort())
    one.type(HUND)
    expect(one.page.locator("#message.wrong")).to_contain_text("cannot be reached")
    one.page.unroute("**/v1/translate/stream")
    one.shows(german(HUND))
    expect(one.page.locator("#message.wrong")).to_have_count(0)
    one.problems.clear()  # the browser itself reports the failed request


def test_the_race(visit: Open, german: Callable[[str], str]) -> None:
    page = visit("/compare").page
    page.get_by_label("Your sentence").fill(HUND)
    page.get_by_role("button", name="Race").click()
    expect(page.locator("#verdict")).to_have_text(re.compile(r"K-matrices were [\d.]+ × .+ their dense twin"))
    expect(page.locator("#kmatrix-text")).to_have_text(german(HUND))
    expect(page.locator("#dense-text")).not_to_be_empty()
    widths = []
    for name in ("kmatrix", "dense"):
        expect(page.locator(f"#{name}-ms")).to_have_text(re.compile(r"^[\d.]+ ms$"))
        running = f"document.getElementById('{name}-bar').getAnimations().length"
        assert until(lambda running=running: page.evaluate(running) == 0)
        widths.append(page.evaluate(f"parseFloat(document.getElementById('{name}-bar').style.width)"))
    assert max(widths) == 100
    assert 0 < min(widths) <= 100


def test_pages_under_a_prefix(visit: Open, german: Callable[[str], str]) -> None:
    with serving(tiny_bundle.bundle_folder(), prefix="/mt") as server:
        one = visit(address=server.url, path="/")
        one.type(HUND)
        one.shows(german(HUND))
        one.page.get_by_role("link", name="Compare").click()
        expect(one.page).to_have_url(f"{server.url}/compare")
        one.page.wait_for_load_state("networkidle")
        one.page.close()  # before its server


@pytest.mark.parametrize("path", ["/", "/compare"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_readable_by_everybody(visit: Open, path: str, scheme: str, size: dict[str, int]) -> None:
    one = visit(path, color_scheme=scheme, viewport=size)
    one.page.locator("#text").fill(TEXT)
    if path == "/":
        one.page.locator("#translation .sentence").first.click()
        expect(one.page.locator("#others-list button").first).to_be_visible()
    else:
        one.page.get_by_role("button", name="Race").click()
        expect(one.page.locator("#verdict")).not_to_be_empty()
    found = Axe().run(one.page)
    assert found.violations_count == 0, found.generate_report()
    wide = one.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, "it must not scroll sideways"
    shade = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", shade)[:3])
    assert (red + green + blue > 382) == (scheme == "light")


def test_touch_targets_are_large_enough(visit: Open) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True).page
    for control in page.locator("main button:visible, main select:visible").all():
        box = control.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 40, control.evaluate("node => node.outerHTML")
