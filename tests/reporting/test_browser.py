"""The page in a real browser, at the width of a laptop and of a phone."""

import shutil

import numpy as np
import pytest

from stages.reporting.examples import Picture, Row, png
from stages.reporting.page import page
from stages.reporting.sound import wav
from tests.reporting.conftest import HEADLINE

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def pictures(text, correct):
    return [Picture(png(np.zeros((1, 28, 28), np.uint8)), text, correct)] * 8


@pytest.fixture(scope="module")
def reports(study, tmp_path_factory):
    """Report pages by name, written when first asked for."""
    folder = tmp_path_factory.mktemp("reports")
    budgets = {"epsilons": (0, 4 / 255, HEADLINE)}
    one = {"schemes": ("int8",), "defenses": ("none",), "also": (), "attacks": ("pgd",), "transfer": ()}
    several = {"datasets": ("cifar10", "fashion_mnist"), "seeds": (0, 1), "schemes": ("fp32", "int8"), "also": ()}
    options = {
        "default": {},
        "one variant": one | budgets,
        "black box": {"attacks": ("noise", "pgd", "square"), "transfer": ()} | budgets,
        "several": several | {"defenses": ("none",), "samples": 20, "test_samples": 20} | budgets,
        "two norms": {"attacks": ("noise", "pgd", "pgd_l2", "deepfool"), "transfer": ("pgd", "deepfool")} | budgets,
        "all flagged": {"masked": ("fp32", "int8", "w4a4", "w1a1"), "targets": {"fashion_mnist": {"resnet8": 1.0}}}
        | budgets,
    }
    strip = [
        Row("Original", "true label", pictures("cat", None)),
        Row("pgd", "predicted label", pictures("dog", False)),
    ]

    def write(name):
        path = folder / f"{name}.html"
        if not path.exists():
            _, table, groups = study(**options[name])
            text = page(table, groups, [], strip, {"title": name, "question": "What holds?"}, {"threads": 1})
            path.write_text(text, encoding="utf-8")
        return path.as_uri()

    return write


@pytest.fixture
def opened(browser, reports):
    """Opens a report in a page of some width; what the browser asks for and complains about is noted on it."""
    contexts = []

    def open_report(name="default", width=1280, theme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme))
        tab = contexts[-1].new_page()
        tab.complaints, tab.requests = [], []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.goto(reports(name))
        tab.wait_for_selector("html[data-drawn]")
        return tab

    yield open_report
    for context in contexts:
        context.close()


def column(tab, label):
    """The texts of a column of the table as it stands."""
    labels = tab.locator("#table thead button").all_text_contents()
    return tab.locator(f"#table tbody td:nth-child({labels.index(label) + 1})").all_text_contents()


def select(tab, name, value):
    """Sets one of the table's filters."""
    tab.locator(f"select[name={name}]").select_option(value)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("default", 1280),
        ("default", 390),
        ("one variant", 390),
        ("black box", 390),
        ("several", 390),
        ("two norms", 390),
        ("two norms", 1280),
        ("all flagged", 1280),
    ],
)
def test_everything_is_drawn_from_one_file_and_fits(opened, name, width):
    tab = opened(name, width)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [tab.url]
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    charts = tab.locator(".chart")
    boxes = [charts.nth(index).locator("svg").bounding_box() for index in range(charts.count())]
    assert len(boxes) >= 3
    assert all(box["width"] > 150 and box["height"] > 100 for box in boxes)
    images = tab.locator(".strip img")
    assert images.count() == 16
    assert all(images.nth(index).evaluate("image => image.naturalWidth") == 28 for index in range(16))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "section"), [("default", "accuracy_vs_epsilon"), ("two norms", "distance")])
def test_panels_are_fitted_to_the_width(opened, name, section, width):
    tab = opened(name, width)
    room = tab.locator(f"#{section} .scroll").first.bounding_box()["width"]
    drawn = tab.locator(f"#{section} svg").first.bounding_box()["width"]
    assert 0.8 * room < drawn <= room


def test_headers_sort_both_ways_with_mouse_and_keyboard(opened):
    tab = opened()
    header = tab.get_by_role("columnheader", name="Accuracy")
    header.get_by_role("button").click()
    ascending = [float(text.split()[0]) for text in column(tab, "Accuracy")]
    assert ascending == sorted(ascending)
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").press("Enter")
    descending = [float(text.split()[0]) for text in column(tab, "Accuracy")]
    assert descending == sorted(descending, reverse=True)
    assert descending[0] > ascending[0]
    assert header.get_attribute("aria-sort") == "descending"


def test_epsilons_sort_by_size(opened):
    tab = opened()
    select(tab, "attack", "noise")
    select(tab, "scheme", "w1a1")
    tab.get_by_role("columnheader", name="Epsilon").get_by_role("button").click()
    assert column(tab, "Epsilon") == ["0", "1/255", "2/255", "4/255", "8/255", "16/255"]


def test_filters_and_search_narrow_the_table(opened):
    tab = opened()
    everything = tab.locator("#status").text_content()
    select(tab, "scheme", "int8")
    select(tab, "threat", "worst_case")
    assert set(column(tab, "Scheme")) == {"int8"}
    assert set(column(tab, "Threat")) == {"worst_case"}
    assert tab.locator("#status").text_content() == "18 of 800 cells"
    tab.get_by_label("Search").fill("Jacobian")
    assert set(column(tab, "Defense")) == {"jacobian"}
    assert tab.locator("#status").text_content() == "6 of 800 cells"
    tab.get_by_label("Search").fill("")
    for name in ("scheme", "threat"):
        select(tab, name, "")
    assert tab.locator("#status").text_content() == everything == "800 cells, the first 40 shown"


def test_flagged_cells_can_be_singled_out(opened):
    tab = opened()
    select(tab, "flags", "any")
    assert set(column(tab, "Scheme")) == {"w1a1"}
    assert all(column(tab, "Flags"))
    spill = "[...document.querySelectorAll('td.flags')].some(cell => cell.scrollWidth > cell.clientWidth)"
    assert not tab.evaluate(spill)
    select(tab, "flags", "zero_gradient")
    assert all("zero_gradient" in text for text in column(tab, "Flags"))
    select(tab, "flags", "none")
    assert not any(column(tab, "Flags"))


def test_more_rows_and_columns_appear_on_demand(opened):
    tab = opened()
    assert tab.locator("#table tbody tr").count() == 40
    tab.get_by_role("button", name="Show more rows").click()
    assert tab.locator("#table tbody tr").count() == 440
    assert tab.get_by_role("columnheader", name="Mean L2").count() == 0
    tab.get_by_label("distances and costs").check()
    assert tab.get_by_role("columnheader", name="Mean L2").count() == 1


def test_the_command_is_shown_and_copied(opened):
    tab = opened()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_label("Search").fill("int8-none-s0-pgd")
    button = tab.locator("#table .copy").first
    command = button.evaluate("button => button.nextElementSibling.textContent")
    button.click()
    playwright.expect(button).to_have_text("Copied")  # once the browser has answered
    assert tab.evaluate("navigator.clipboard.readText()") == command
    assert command.startswith("python -m stages attack ")


def test_another_attack_can_be_shown(opened):
    tab = opened()
    marks = "[...document.querySelectorAll('#accuracy_vs_epsilon svg path')].map(path => path.getAttribute('d')).join()"
    before = tab.evaluate(marks)
    tab.locator("#series label", has_text="noise").click()
    tab.wait_for_function(f"before => {marks} !== before", arg=before, timeout=5000)
    assert tab.complaints == []


def test_charts_follow_the_dark_theme(opened):
    """Axis labels take the soft colour of the theme."""
    label = "svg => svg.querySelector('.role-axis-label text').getAttribute('fill')"
    light, dark = (opened(theme=theme).locator("#heatmap svg").evaluate(label) for theme in ("light", "dark"))
    assert (light, dark) == ("#5b6570", "#a3adb8")


def test_charts_are_drawn_again_when_the_width_changes(opened):
    tab = opened(width=1280)
    tab.evaluate("delete document.documentElement.dataset.drawn")
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.wait_for_selector("html[data-drawn]")
    assert tab.locator("#accuracy_vs_epsilon svg").bounding_box()["width"] < 390
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_epsilons_of_several_norms_are_filtered_and_sorted(opened):
    tab = opened("two norms")
    options = tab.locator("select[name=epsilon] option").all_text_contents()
    assert options == ["all", "0", "4/255", "8/255", "0.25", "0.5", "1", "any"]
    select(tab, "attack", "deepfool")
    select(tab, "threat", "white_box")
    select(tab, "scheme", "w1a1")
    tab.get_by_role("columnheader", name="Epsilon").get_by_role("button").click()
    assert column(tab, "Epsilon") == ["0", "0.25", "0.5", "1", "any"]
    select(tab, "epsilon", "any")
    assert (column(tab, "Epsilon"), column(tab, "Norm")) == (["any"], ["l2"])


def test_an_attack_is_shown_in_its_norm(opened):
    tab = opened("two norms", 390)
    figures = tab.locator("#accuracy_vs_epsilon figure")
    captions = "figures => figures.filter(figure => !figure.hidden).map(figure => figure.innerText.split('\\n')[0])"
    names = ["fashion_mnist · resnet8 · Linf", "fashion_mnist · resnet8 · L2"]
    assert figures.evaluate_all(captions) == names
    tab.locator("#series").get_by_text("deepfool", exact=True).click()
    assert figures.evaluate_all(captions) == names[1:]
    tab.evaluate("delete document.documentElement.dataset.drawn")
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.wait_for_selector("html[data-drawn]")
    tab.locator("#series label", has_text="worst case").click()
    assert figures.evaluate_all(captions) == names
    widths = [figures.nth(index).locator("svg").bounding_box()["width"] for index in range(2)]
    assert min(widths) > 600 and tab.complaints == []


def test_clips_of_sound_play(browser, study, tmp_path):
    _, table, groups = study(schemes=("int8",), defenses=("none",), also=(), attacks=("pgd",), transfer=())
    clip = Picture(wav(np.arange(8_000, dtype=np.int16)), "yes", None)
    text = page(table, groups, [], [Row("Original", "true label", [clip])], {"title": "x", "question": "y"}, {})
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    tab = browser.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    tab.wait_for_function("document.querySelector('.strip audio').readyState > 0")
    assert tab.evaluate("document.querySelector('.strip audio').duration") == 0.5
    tab.close()
