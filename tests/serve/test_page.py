"""The page in a real Chromium: files are chosen by keyboard or dropped, and what the ensemble says can be read."""

import shutil
import subprocess

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from serve_process import ServerProcess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="there is no chromium, or no chromedriver (Debian: chromium-driver)"
)

# Drops a file as a person does, since a driver cannot drag one in from outside the browser.
DROP = """
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(arguments[1])], arguments[0], {type: "image/png"}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
"""
CONTRAST = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const light = (rgb) => {
  const [r, g, b] = rgb.slice(0, 3).map((value) => linear(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = (node) => {
  for (; node; node = node.parentElement) {
    const rgb = channels(getComputedStyle(node).backgroundColor);
    if (rgb.length < 4 || rgb[3] === 1) return rgb;
  }
  return [255, 255, 255];
};
const found = {};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; (text = walker.nextNode());) {
  const node = text.parentElement;
  if (!text.data.trim() || !node.checkVisibility() || node.closest("option")) continue;
  const [a, b] = [light(channels(getComputedStyle(node).color)), light(paper(node))];
  found[`${node.tagName} ${text.data.trim().slice(0, 30)}`] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER, log_output=subprocess.DEVNULL)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, server):
    browser.get(server.url)
    until(browser, lambda: text_of(browser, "#about"))
    return browser


def until(browser, condition):
    return WebDriverWait(browser, 60).until(lambda _: condition())


def text_of(browser, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def texts_of(browser, selector: str) -> list[str]:
    return [each.text for each in browser.find_elements(By.CSS_SELECTOR, selector)]


def focused(browser):
    return browser.switch_to.active_element


def tab_to(browser, matches) -> None:
    """Press the tabulator until the element in focus matches."""
    for _ in range(30):
        if matches(focused(browser)):
            return
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
    raise AssertionError("the keyboard does not reach it")


def test_files_are_chosen_by_keyboard_and_what_the_ensemble_says_is_read(page, predictor, pictures, tmp_path):
    assert text_of(page, ".notice").startswith("Not a medical device.")
    assert all(name in text_of(page, "#about") for name in predictor.classes)
    tab_to(page, lambda element: element.get_attribute("id") == "files")
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    focused(page).send_keys(f"{pictures[0]}\n{broken}")
    until(page, lambda: texts_of(page, ".result h2") == ["a.png", "broken.png"])
    expected = predictor.predict(pictures[0])[0]
    verdict, error = texts_of(page, ".verdict")
    assert expected.label in verdict
    assert "neither DICOM" in error
    assert texts_of(page, ".result tbody th") == list(predictor.classes)
    shown = [float(text.split()[-2]) for text in texts_of(page, "td.number")]
    assert shown == pytest.approx([100 * value for value in expected.probabilities.values()], abs=0.06)
    widths = page.execute_script("return [...document.querySelectorAll('.fill')].map((bar) => bar.style.width)")
    assert [float(width.removesuffix("%")) for width in widths] == pytest.approx(shown, abs=0.06)
    assert all(name in text_of(page, ".set") for name in expected.prediction_set)
    assert texts_of(page, ".look:not([hidden]) li") == list(expected.review)
    assert text_of(page, "#status").startswith("1 of 2 images predicted")
    assert page.find_element(By.ID, "status").get_attribute("aria-live") == "polite"


def test_a_heat_map_is_drawn_on_demand_by_keyboard(page, pictures):
    page.find_element(By.ID, "files").send_keys(str(pictures[0]))
    until(page, lambda: texts_of(page, ".result h2") == ["a.png"])
    assert not page.find_element(By.CSS_SELECTOR, "figure").is_displayed()
    tab_to(page, lambda element: element.tag_name == "button" and element.text == "Show")
    focused(page).send_keys(Keys.ENTER)
    picture = page.find_element(By.CSS_SELECTOR, "figure img")
    until(page, lambda: int(picture.get_property("naturalWidth")) > 0)
    assert picture.get_attribute("alt")
    assert "neither outlines a finding" in text_of(page, "figcaption")


def test_a_file_is_dropped(page, pictures):
    page.execute_script(DROP, "dropped.png", list(pictures[1].read_bytes()))
    until(page, lambda: texts_of(page, ".result h2") == ["dropped.png"])


def test_what_the_server_refuses_is_said(page, pictures):
    files = page.find_element(By.ID, "files")
    files.send_keys("\n".join([str(pictures[0])] * 65))
    until(page, lambda: "At most 64 images" in text_of(page, "#status"))
    assert texts_of(page, ".result") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper_on_a_phone_too(page, pictures, tmp_path, scheme):
    try:
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        phone = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        page.find_element(By.ID, "files").send_keys(f"{pictures[0]}\n{broken}")
        until(page, lambda: len(texts_of(page, ".result")) == 2)
        contrast = page.execute_script(CONTRAST)
        assert len(contrast) > 15
        assert {text: value for text, value in contrast.items() if value < 4.5} == {}  # WCAG 2.2, 1.4.3
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_browser_has_nothing_to_complain_of(page, pictures):
    page.get_log("browser")  # of tests before
    page.find_element(By.ID, "files").send_keys(str(pictures[0]))
    until(page, lambda: texts_of(page, ".result h2") == ["a.png"])
    page.find_element(By.CSS_SELECTOR, "summary").click()
    assert "Read this first" in text_of(page, "#card-text") or "Results" in text_of(page, "#card-text")
    assert page.get_log("browser") == []


def test_a_token_is_asked_for_and_used(browser, trained, pictures, tmp_path):
    server = ServerProcess(trained.bundle, "--token-file", str(tmp_path / "token"))
    try:
        browser.get(server.url)
        field = browser.find_element(By.ID, "token")
        until(browser, field.is_displayed)
        assert focused(browser) == field
        field.send_keys("wrong" + Keys.ENTER)
        until(browser, lambda: "A token is needed" in text_of(browser, "#status"))
        field.clear()
        field.send_keys((tmp_path / "token").read_text().strip() + Keys.ENTER)
        until(browser, lambda: text_of(browser, "#about"))
        assert not field.is_displayed()
        browser.find_element(By.ID, "files").send_keys(str(pictures[0]))
        until(browser, lambda: texts_of(browser, ".result h2") == ["a.png"])
    finally:
        server.end()
