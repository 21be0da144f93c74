"""The page: what its file holds, and how it behaves in a real browser."""

import base64
import csv
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from PIL import Image

import Compression_ADMM
import test as evaluate
import utils.batch.page as page_module
from data import build_kind
from data.base import Preview
from utils.batch.page import Version, writing_page

NASTY = """<img src=x onerror=alert(1)> & "quoted" 'name'.png"""
COLORS = {"original": (200, 30, 30), "low": (30, 160, 60), "high": (40, 60, 210)}
VOID = {"meta", "link", "img", "input", "br"}


def flat(color, rows=120, columns=300) -> np.ndarray:
    return np.full((rows, columns, 3), color, np.uint8)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Two signals: flat colors under a nasty name, and half a second of sound in two versions."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    time = np.arange(8000) / 16000
    tone = 0.4 * np.sin(2 * np.pi * 300 * time)
    with writing_page(path, "Title & <b>more</b>", "Intro") as page:
        page.add(
            NASTY,
            [
                Version(
                    label,
                    Preview(flat(color), note="300x120 pixels"),
                    {"bytes": 1234.0, "psnr_db": float("nan") if label == "original" else 30.125},
                )
                for label, color in COLORS.items()
            ],
        )
        page.add(
            "speech",
            [
                Version(label, Preview(flat(20 * i), gain * tone, 16000), {"kbps": 1.5, "stoi": 0.9})
                for i, (label, gain) in enumerate({"original": 1, "decoded": 0.5}.items())
            ],
        )
    return path


class Document(HTMLParser):
    """Elements with their attributes; raises AssertionError where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def document(page_file):
    return Document(page_file.read_text())


def payload(uri, media_type) -> io.BytesIO:
    head, data = uri.split(",", 1)
    assert head == f"data:{media_type};base64"
    return io.BytesIO(base64.b64decode(data, validate=True))


def test_the_page_is_whole_and_loads_nothing(document, page_file):
    tags = [tag for tag, _ in document.elements]
    assert tags.count("section") == 2 and tags.count("h1") == 1 and not {"iframe", "object", "base"} & set(tags)
    for tag, attributes in document.elements:
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes[name][:80])
    policy = next(a["content"] for tag, a in document.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy
    text = re.sub(r"base64,[^\"]*", "", page_file.read_text())
    assert "://" not in text and "@import" not in text and "url(" not in text
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_are_text(document):
    headings = "".join(document.text)
    assert NASTY in headings and "Title & <b>more</b>" in headings
    assert not any(attributes.get("src") == "x" for _, attributes in document.elements)


def test_pictures_and_sounds_are_exact(document):
    pictures = [attributes for tag, attributes in document.elements if tag == "img"]
    assert [p["alt"] for p in pictures] == [*COLORS, "original", "decoded"]
    for attributes, color in zip(pictures, COLORS.values()):
        pixels = np.asarray(Image.open(payload(attributes["src"], "image/webp")).convert("RGB"))
        assert np.array_equal(pixels, flat(color))
    sounds = [attributes for tag, attributes in document.elements if tag == "audio"]
    time = np.arange(8000) / 16000
    for attributes, gain in zip(sounds, (0.4, 0.2), strict=True):
        samples, rate = soundfile.read(payload(attributes["src"], "audio/flac"), dtype="int16")
        assert rate == 16000
        assert np.array_equal(samples, np.rint(gain * np.sin(2 * np.pi * 300 * time) * 32768).astype(np.int16))


def test_measures_are_beside(document):
    cells = [text.strip() for text in document.text]
    for said in ("1,234", "30.12", "–", "PSNR (dB)", "1.50", "0.900", "kbps", "STOI", "300x120 pixels"):
        assert said in cells, said


def test_a_failed_page_leaves_nothing(tmp_path):
    versions = [Version("a", Preview(flat((1, 2, 3)))), Version("b", Preview(flat((1, 2, 3), columns=5)))]
    with pytest.raises(ValueError, match="differ in shape"), writing_page(tmp_path / "page.html", "t") as page:
        page.add("x", versions)
    with pytest.raises(ValueError, match="at least one"), writing_page(tmp_path / "page.html", "t") as page:
        page.add("x", [])
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_text_is_written(tmp_path):
    with writing_page(tmp_path / "page.html", "t") as page:
        page.add("bad\udcff.png", [Version("a", Preview(flat((1, 2, 3))))])
        page.add("evil\x1b[2J\u202e.png", [Version("a", Preview(flat((1, 2, 3))))])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert r"bad\xff.png" in text and r"evil\x1b[2J\u202e.png" in text


# -- what a kind shows of itself ------------------------------------------------------------------------


def test_images_show_their_pixels_or_the_middle():
    kind = build_kind("image")
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1001, 3), dtype=np.uint8)
    shown = kind.preview(pixels, pixels)
    assert np.array_equal(shown.pixels, pixels[66:834, 116:884])
    assert "middle 768x768 of 1001x900" in shown.note and shown.sound is None
    small = kind.preview(pixels[:5, :7], pixels[:5, :7])
    assert np.array_equal(small.pixels, pixels[:5, :7]) and small.note == "7x5 pixels"


def test_speech_shows_its_spectrogram_and_plays():
    kind = build_kind("speech")
    time = np.arange(30 * 16000) / 16000
    low, high = (0.5 * np.sin(2 * np.pi * hertz * time[:16000]).astype(np.float32) for hertz in (300, 5000))
    shown = [kind.preview(tone, low) for tone in (low, high, 0.01 * low)]
    rows, columns = kind.picture_shape((16000, 16000))
    assert all(preview.pixels.shape == (2 * rows, columns, 3) for preview in shown)
    middle = [preview.pixels[:, columns // 2].sum(axis=1).astype(int) for preview in shown]
    assert middle[0].argmax() > 1.5 * rows and middle[1].argmax() < rows  # low bands lie at the bottom
    assert middle[2].max() < 0.7 * middle[0].max()  # softer than its reference: darker
    assert np.array_equal(shown[0].sound, low) and shown[0].sample_rate == 16000

    long = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    preview = kind.preview(long, long)
    assert len(preview.sound) == 20 * 16000 and "first 20 s of 30.0 s" in preview.note
    silence = kind.preview(np.zeros(1, np.float32), np.zeros(1, np.float32))
    assert silence.pixels.max() < 10 and silence.pixels.shape == (2 * rows, 1, 3)


def test_another_kind_shows_its_picture():
    from data.base import Kind

    kind = build_kind("image")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert np.array_equal(Kind.preview(kind, pixels, pixels).pixels, pixels[..., :1].repeat(3, axis=2))


# -- reports of the scripts -----------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path, texture_image, voiced_clip):
    """A folder of three pictures and a recording, under names that need escaping."""
    folder = tmp_path / "in"
    (folder / "<deep>").mkdir(parents=True)
    for i, name in enumerate(("a & b.png", "c.png", "<deep>/d.png")):
        Image.fromarray(texture_image[i : 100 + i, :90]).save(folder / name)
    build_kind("speech").write(folder / "<deep>" / "e.wav", voiced_clip[:9000])
    return folder


def run(module, tiny_checkpoints, *arguments):
    return module.main(
        [
            *map(str, arguments),
            "--device",
            "cpu",
            "--checkpoint",
            str(tiny_checkpoints["image"]),
            str(tiny_checkpoints["speech"]),
        ]
    )


def pictures_of(document) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(payload(attributes["src"], "image/webp")).convert("RGB"))
        for tag, attributes in document.elements
        if tag == "img"
    ]


@pytest.mark.slow
def test_reports_show_originals_and_what_was_decoded(mixed, tiny_checkpoints, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(evaluate, tiny_checkpoints, "--input", mixed, "--output", output, "--quality", 2, 7, "--report") == 0
    assert f"{output / 'report.html'}: 4 files" in capsys.readouterr().out
    document = Document((output / "report.html").read_text())
    assert [attributes["alt"] for tag, attributes in document.elements if tag == "img"] == [
        "original",
        "quality 2",
        "quality 7",
    ] * 4
    shown = pictures_of(document)
    order = [text for text in document.text if text in ("a & b", "c", "<deep>/d", "<deep>/e")]
    assert sorted(order) == ["<deep>/d", "<deep>/e", "a & b", "c"]
    start = 3 * order.index("a & b")
    for pixels, path in zip(
        shown[start : start + 3],
        (mixed / "a & b.png", output / "quality_2" / "a & b.png", output / "quality_7" / "a & b.png"),
    ):
        assert np.array_equal(pixels, np.asarray(Image.open(path)))
    sounds = [
        soundfile.read(payload(attributes["src"], "audio/flac"), dtype="int16")[0]
        for tag, attributes in document.elements
        if tag == "audio"
    ]
    for samples, path in zip(
        sounds,
        (
            mixed / "<deep>" / "e.wav",
            output / "quality_2" / "<deep>" / "e.wav",
            output / "quality_7" / "<deep>" / "e.wav",
        ),
        strict=True,
    ):
        assert np.array_equal(samples, soundfile.read(path, dtype="int16")[0])
    with open(output / "quality_7" / "metrics.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["file"].endswith("c.png"))
    assert f"{int(row['bytes']):,}" in document.text and f"{float(row['psnr_db']):.2f}" in document.text


@pytest.mark.slow
def test_reports_of_many_files_say_what_they_leave_out(mixed, tiny_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_VERSIONS", 5)
    arguments = ("--input", mixed, "--output", tmp_path / "out", "--iterations", 2, "--report")
    assert run(Compression_ADMM, tiny_checkpoints, *arguments) == 0
    document = Document((tmp_path / "out" / "report.html").read_text())
    assert [tag for tag, _ in document.elements].count("section") == 2
    assert any("first 2 of 4 files" in text for text in document.text)
    assert "quality 3, admm, 2 iterations" in document.text


def test_a_report_needs_a_folder(mixed, tiny_checkpoints, capsys):
    assert run(Compression_ADMM, tiny_checkpoints, "--input", mixed / "c.png", "--output", "-", "--report") == 1
    said = capsys.readouterr()
    assert "--report needs a folder" in said.err and not said.out


# -- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    import selenium.webdriver as selenium

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=900,1400",
        "--autoplay-policy=no-user-gesture-required",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = selenium.Chrome(options, selenium.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def opened(browser, page_file):
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page_file.as_uri())
    return browser


def find(browser, selector, entry=0):
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, ".entry")[entry].find_elements(By.CSS_SELECTOR, selector)


def seen(browser) -> list[str]:
    """Which version is seen at 1 %, 2 %, ... 99 % of the first comparison's width, near its lower edge."""
    (compare,) = find(browser, ".compare")
    sheet = np.asarray(Image.open(io.BytesIO(compare.screenshot_as_png)).convert("RGB")).astype(int)
    rows, columns, _ = sheet.shape
    names = list(COLORS)
    return [
        names[
            int(
                np.argmin(
                    [np.abs(sheet[int(0.9 * rows), int(x * columns / 100)] - COLORS[name]).sum() for name in names]
                )
            )
        ]
        for x in range(1, 100)
    ]


@pytest.mark.slow
def test_the_page_opens_without_errors_or_requests(opened):
    import json

    assert opened.title == "Title & <b>more</b>"
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requested = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert requested and all(url.startswith(("data:", "file:")) for url in requested)
    assert sum(url.startswith("file:") for url in requested) == 1
    loaded = opened.execute_script("return [...document.images].slice(0, 2).map(i => i.complete && i.naturalWidth)")
    assert loaded == [300, 300]


@pytest.mark.slow
def test_the_mouse_moves_the_slider(opened):
    from selenium.webdriver import ActionChains

    versions = seen(opened)
    assert set(versions[:45]) == {"original"} and set(versions[55:]) == {"low"}
    (compare,), (handle,) = find(opened, ".compare"), find(opened, ".handle")
    width = compare.size["width"]
    ActionChains(opened).click_and_hold(handle).move_by_offset(int(0.3 * width), 5).release().perform()
    versions = seen(opened)
    assert set(versions[:75]) == {"original"} and set(versions[85:]) == {"low"}
    assert handle.get_attribute("aria-valuenow") == "80"
    ActionChains(opened).move_by_offset(-int(0.2 * width), 0).perform()  # the button is up
    assert handle.get_attribute("aria-valuenow") == "80"


@pytest.mark.slow
def test_a_finger_moves_the_slider(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    (compare,) = find(opened, ".compare")
    actions = ActionChains(opened, devices=[PointerInput("touch", "finger")])
    finger = actions.w3c_actions.pointer_action
    finger.move_to(compare, -int(0.4 * compare.size["width"]), 0).pointer_down()
    finger.move_to(compare, -int(0.25 * compare.size["width"]), 0).pointer_up()
    actions.perform()
    assert find(opened, ".handle")[0].get_attribute("aria-valuenow") == "25"


@pytest.mark.slow
def test_the_keyboard_moves_the_slider(opened):
    from selenium.webdriver.common.keys import Keys

    (handle,) = find(opened, ".handle")
    before = seen(opened).count("original")
    handle.send_keys(Keys.PAGE_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert handle.get_attribute("aria-valuenow") == "64"
    assert 10 <= seen(opened).count("original") - before <= 18
    handle.send_keys(Keys.HOME)
    assert set(seen(opened)[2:]) == {"low"}
    handle.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert handle.get_attribute("aria-valuenow") == "100" and set(seen(opened)[:97]) == {"original"}
    handle.send_keys(Keys.ARROW_LEFT)
    assert handle.get_attribute("aria-valuenow") == "98"


@pytest.mark.slow
def test_versions_are_chosen(opened):
    choices = {side: find(opened, f"input[data-side={side}]") for side in ("left", "right")}
    assert [c.is_selected() for c in choices["left"]] == [True, False, False]
    choices["left"][2].click()
    choices["right"][0].click()
    versions = seen(opened)
    assert set(versions[:45]) == {"high"} and set(versions[55:]) == {"original"}
    assert [tag.text for tag in find(opened, ".tag")] == ["high", "original"]
    choices["right"][2].click()  # the same on both sides
    assert set(seen(opened)[:45] + seen(opened)[55:]) == {"high"}
    (tag, _) = find(opened, ".tag", entry=1)
    assert tag.text == "original"  # the other comparison is as it was


@pytest.mark.slow
def test_the_players_load_and_play_one_at_a_time(opened):
    line = "return getComputedStyle(document.querySelectorAll('.compare')[1], '::after').left"
    assert float(opened.execute_script(line).removesuffix("px")) < 0
    script = """
        const done = arguments[0], players = [...document.querySelectorAll("audio")];
        const loaded = (p) => p.readyState >= 2 ? p : new Promise((yes) => p.addEventListener("loadeddata", yes));
        (async () => {
          for (const p of players) { p.preload = "auto"; await loaded(p); }
          const durations = players.map((p) => p.duration);
          players.forEach((p) => { p.loop = true; });
          await players[0].play();
          await players[1].play();
          await new Promise((yes) => players[1].addEventListener("timeupdate", yes, {once: true}));
          const compare = players[1].closest(".entry").querySelector(".compare");
          done([durations, players.map((p) => p.readyState), players.map((p) => p.paused),
                getComputedStyle(compare, "::after").left]);
        })().catch((error) => done(String(error)));"""
    opened.set_script_timeout(20)
    durations, states, paused, line = opened.execute_async_script(script)
    assert durations == pytest.approx([0.5, 0.5], abs=1e-3)
    assert min(states) >= 2 and paused == [True, False]
    assert float(line.removesuffix("px")) >= 0  # before playing it is outside


@pytest.mark.slow
def test_the_page_fits_a_phone(opened):
    size = opened.get_window_size()
    try:
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        )
        wide = opened.execute_script("return document.documentElement.scrollWidth")
        (compare,) = find(opened, ".compare")
        assert wide <= 360 and 280 <= compare.size["width"] <= 360
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.set_window_size(size["width"], size["height"])
