"""The HTML pages in a browser, without any other server than the one that makes them."""

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from .conftest import APPLICATIONS, Service, Stack

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MILLISECONDS = 120_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 812}
TILES = "https://tile.openstreetmap.org/"
SCRIPT = "<img src=x onerror='window.hacked = 1'>"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000000000200015e2b2ba80000000049454e44ae426082"
)

both_applications = pytest.mark.parametrize("application", APPLICATIONS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; .ci/run does that")
        pytest.skip("chromium is not installed: pages are not tested")
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS), timeout=TIMEOUT_MILLISECONDS
        )
        yield started
        started.close()


@dataclasses.dataclass
class Visit:
    """A page in the browser, and what happens to it.

    Attributes:
        elsewhere: Addresses on other servers that the page asked for, all in vain.
        faults: Errors of scripts, and what the content security policy refused.
    """

    page: Page
    service: Service
    elsewhere: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.service.url}{path}")
        return self.page

    def field(self, input_id: str) -> Locator:
        return self.page.locator(f'[data-input-id="{input_id}"]')

    def control(self, input_id: str) -> Locator:
        return self.field(input_id).locator("input, select, textarea").first

    def execute(self) -> None:
        self.page.get_by_role("button", name="Execute").click()

    def output(self, output_id: str) -> Locator:
        return self.page.locator(f'article[data-id="{output_id}"]')

    def is_hacked(self) -> bool:
        return bool(self.page.evaluate("window.hacked !== undefined"))


def visit_of(browser: Browser, service: Service, viewport: dict[str, int]) -> Iterator[Visit]:
    context = browser.new_context(viewport=viewport, locale="en-GB")  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MILLISECONDS)
    visit = Visit(page, service)

    def keep_here(route: Any) -> None:
        url = route.request.url
        if url.startswith((service.url, "blob:", "data:")):
            route.continue_()
        else:
            visit.elsewhere.append(url)
            route.abort()

    def note(message: Any) -> None:
        if "Content Security Policy" in message.text:
            visit.faults.append(message.text)

    context.route("**/*", keep_here)
    page.on("console", note)
    page.on("pageerror", lambda error: visit.faults.append(str(error)))
    yield visit
    # pages that keep themselves up to date may just be asking for something
    context.unroute_all(behavior="ignoreErrors")
    context.close()
    assert visit.faults == []
    assert [url for url in visit.elsewhere if not url.startswith(TILES)] == []


@pytest.fixture
def application() -> str:
    return "flask"


@pytest.fixture
def service(stack: Stack, application: str) -> Service:
    return stack.services[application]


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    yield from visit_of(browser, service, DESKTOP)


@pytest.fixture
def phone(browser: Browser, service: Service) -> Iterator[Visit]:
    yield from visit_of(browser, service, PHONE)


def expect_status(visit: Visit, status: str) -> None:
    badge = visit.page.locator("#status")
    expect(badge).to_have_text(status)


def job_of(visit: Visit) -> str:
    job_id = visit.page.locator("#job").get_attribute("data-job-id")
    assert job_id is not None
    return f"/jobs/{job_id}"


@both_applications
def test_a_form_is_filled_executed_and_answered_in_place(visit: Visit, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    shape = tmp_path / "shape.geojson"
    shape.write_text('{"type": "Point", "coordinates": [7, 51]}')
    page = visit.open("/processes/showcase?f=html")

    expect(visit.control("count")).to_have_value("3")  # the default
    visit.control("name").fill("Ada")
    visit.control("count").fill("5")
    visit.control("flag").select_option(label="yes")
    visit.control("colour").select_option(label="green")
    for tag in ("a", "b"):
        visit.field("tags").get_by_role("button", name="Add Tags").click()
        visit.field("tags").locator("input").last.fill(tag)
    visit.field("shape").locator("input[type=file]").set_input_files(shape)
    expect(visit.field("shape").locator("textarea")).to_have_value(re.compile("Point"))
    visit.field("picture").locator("input[type=file]").set_input_files(picture)
    expect(visit.field("picture")).to_contain_text("picture.png")
    for side, number in (("west", "5.9"), ("south", "45"), ("east", "10"), ("north", "47")):
        visit.field("area").get_by_label(side).fill(number)
    visit.field("mixed").get_by_label("Mixed: Kind of value").select_option(label="Text")
    visit.field("mixed").locator("input[type=date]").fill("2030-01-31")
    visit.execute()

    shown = visit.output("inputs").locator("pre")
    expect(shown).to_contain_text("Ada")
    inputs = json.loads(shown.inner_text())
    assert base64.b64decode(inputs.pop("picture")) == PNG
    assert inputs.pop("area")["bbox"] == [5.9, 45, 10, 47]
    assert inputs == {
        "name": "Ada",
        "count": 5,
        "flag": True,
        "colour": "green",
        "tags": ["a", "b"],
        "shape": {"type": "Point", "coordinates": [7, 51]},
        "mixed": "2030-01-31",
    }
    expect(visit.output("table").locator("td").first).to_have_text("a, b")
    expect(visit.output("shapes").locator("path.leaflet-interactive")).to_have_count(1)
    assert visit.output("drawing").locator("img").evaluate("image => image.decode()") is None
    expect(visit.output("report").locator("pre")).to_contain_text("<html>")
    expect(page.locator("#result")).to_contain_text("Done in")


@both_applications
def test_a_job_is_followed_to_its_end_without_reloading(visit: Visit, gate: Path) -> None:
    page = visit.open("/processes/held?f=html")
    visit.control("name").fill("Ada")
    visit.control("until").fill(str(gate))
    page.get_by_label("In the background").check()
    visit.execute()
    page.wait_for_url("**/jobs/*?f=html")

    page.evaluate("window.isTheSamePage = true")
    progress = page.locator("#progress")
    under_way = re.compile(r"^[1-9]\d?$")
    expect(progress).to_have_attribute("value", under_way)
    expect(page.locator("#message")).to_contain_text("Step")
    gate.touch()
    expect_status(visit, "successful")
    expect(page.locator("#announcement")).to_contain_text("successful")
    expect(progress).to_have_attribute("value", "100")
    expect(page.locator(".log-line", has_text="Step 10")).to_be_visible()
    expect(visit.output("shapes").locator("path.leaflet-interactive")).to_have_count(1)
    expect(visit.output("table").locator("tbody tr")).to_have_count(2)
    expect(page.locator("#job details pre").last).to_contain_text('"name": "Ada"')
    assert page.evaluate("window.isTheSamePage") is True
    with page.expect_download() as download:
        visit.output("table").get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_text().startswith("name,value,")


def test_a_job_is_dismissed_and_then_removed(visit: Visit) -> None:
    path = visit.service.submit("echo", {"message": "x", "pause": 300})
    page = visit.open(f"{path}?f=html")
    progress = page.locator("#progress")
    expect_status(visit, "running")
    expect(progress).to_be_visible()
    assert progress.get_attribute("value") is None  # it tells none
    expect(page.locator("#progress-text")).to_be_empty()

    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("button", name="Cancel").click()
    assert visit.service.client.get(path).json()["status"] in ("accepted", "running")
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("dialog").get_by_role("button", name="Dismiss").click()
    expect_status(visit, "dismissed")
    expect(progress).to_be_hidden()
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.wait_for_url("**/jobs?f=html")

    assert visit.service.client.get(path).status_code == 404


@both_applications
def test_the_list_of_jobs_is_filtered_and_paged(visit: Visit) -> None:
    paths = [visit.service.submit("failing", {"for": "input"}) for _ in range(2)]
    for path in paths:
        visit.service.ended(path)
    page = visit.open("/jobs?f=html")

    page.get_by_label("Process", exact=True).select_option("failing")
    page.get_by_label("failed").check()
    page.get_by_label("Created from").fill("2020-01-01T00:00:00")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**status=failed**")
    expect(page.get_by_label("Created from")).to_have_value(re.compile("2020-01-01T00:00"))
    rows = page.locator("tr[data-job-id]")
    expect(rows.first).to_contain_text("the link in `for` leads nowhere")
    assert {row.locator(".status").inner_text() for row in rows.all()} == {"failed"}
    page.goto(f"{page.url}&limit=1".replace("limit=10&", ""))
    first = rows.get_attribute("data-job-id")
    page.get_by_role("link", name="Older").click()
    expect(rows).not_to_have_attribute("data-job-id", str(first))
    page.get_by_role("link", name="Newer").click()
    expect(rows).to_have_attribute("data-job-id", str(first))


def test_the_list_of_jobs_updates_by_itself_unless_it_is_told_not_to(visit: Visit) -> None:
    page = visit.open("/jobs?f=html&processID=echo")
    expect(page.get_by_label("Update by itself")).to_be_checked()
    path = visit.service.submit("echo", {"message": "x"})

    expect(page.locator(f'tr[data-job-id="{path.rpartition("/")[2]}"]')).to_be_visible()
    page.get_by_label("Update by itself").uncheck()
    page.reload()
    expect(page.get_by_label("Update by itself")).not_to_be_checked()


def test_a_list_without_jobs_says_so(visit: Visit) -> None:
    page = visit.open("/jobs?f=html&processID=none-of-these")

    expect(page.locator(".empty")).to_contain_text("No job fits the filter.")
    page.get_by_role("link", name="Show all jobs").click()
    expect(page.get_by_label("Process", exact=True)).to_have_value("")


def test_what_is_wrong_stands_next_to_the_input(visit: Visit) -> None:
    page = visit.open("/processes/showcase?f=html")
    visit.control("count").fill("99")
    visit.field("shape").locator("textarea").fill("{no json")
    visit.execute()

    for input_id, words in (
        ("name", "This is required."),
        ("count", "This must be 10 or less."),
        ("shape", "This is no JSON"),
    ):
        expect(visit.field(input_id).locator(".problem")).to_contain_text(words)
    expect(visit.control("name")).to_be_focused()
    expect(visit.control("name")).to_have_attribute("aria-invalid", "true")

    # what only the server knows
    visit.control("name").fill("x")
    visit.control("count").fill("1")
    visit.field("shape").locator("textarea").fill("")
    for side in ("west", "south", "east", "north"):
        visit.field("area").get_by_label(side).fill("1")
    visit.field("area").get_by_label("Coordinate reference system").fill("nonsense")
    visit.execute()
    expect(visit.field("area").locator(".problem")).to_contain_text("is not a CRS")
    expect(page.locator("#form-problem")).to_contain_text("Some inputs need attention.")
    expect(visit.field("name").locator(".problem")).to_be_hidden()


def test_a_job_that_failed_says_why(visit: Visit) -> None:
    path = visit.service.submit("failing", {"for": "input"})
    page = visit.open(f"{path}?f=html")

    expect_status(visit, "failed")
    expect(page.locator("#failure")).to_contain_text("the link in `for` leads nowhere")
    expect(page.locator("#progress")).to_be_hidden()


def test_numbers_in_a_table_are_short_and_whole_in_their_titles(phone: Visit) -> None:
    path = phone.service.submit("showcase", {"name": "Ada"})
    phone.service.ended(path)
    phone.open(f"{path}?f=html")

    table = phone.output("table").locator("table")
    row = table.locator("tbody tr").first.locator("td")
    expect(row.nth(1)).to_have_text("1")
    assert [(cell.inner_text(), cell.get_attribute("title")) for cell in row.all()] == [
        ("a, b", None),
        ("1", None),
        ("20300131123456789", None),
        ("13.9864", "13.986394555788864"),
        ("2600123.46", "2600123.4567890123"),
        ("1.23457e-7", "1.2345678901234e-07"),
        ("11.0", None),
    ]
    alignment = "cell => getComputedStyle(cell).textAlign"
    assert [cell.evaluate(alignment) for cell in row.all()] == ["start", *6 * ["end"]]
    box = phone.output("table").locator(".table-responsive")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")


def test_the_example_and_the_command_are_what_is_executed(visit: Visit) -> None:
    page = visit.open("/processes/showcase?f=html")
    page.get_by_role("button", name="Fill in the example").click()
    visit.field("picture").get_by_text("Address (URL)").click()
    visit.field("picture").locator("input[type=url]").fill("https://example.org/it's.png")
    command = page.locator("#command-text")
    page.locator("#command summary").click()

    expect(command).to_contain_text("it'\\''s.png")
    visit.field("picture").get_by_text("Value", exact=True).click()
    expect(command).not_to_contain_text("example.org")
    answered = subprocess.run(
        ["bash", "-c", f"{command.inner_text()} --silent --max-time 120"],
        check=True,
        capture_output=True,
    )
    assert json.loads(answered.stdout)["inputs"]["value"]["tags"] == ["a", "b"]


SLOW_FILES = """
    const read = FileReader.prototype.readAsDataURL;
    FileReader.prototype.readAsDataURL = function (file) {
        window.goOn = () => read.call(this, file);
    };
"""


def choose(visit: Visit, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    visit.field("picture").locator("input[type=file]").set_input_files(path)


def inputs_sent(visit: Visit) -> Any:
    shown = visit.output("inputs").locator("pre")
    expect(shown).to_contain_text("Ada")
    return json.loads(shown.inner_text())


def test_a_file_is_waited_for_and_the_last_one_counts(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script(SLOW_FILES)
    page = visit.open("/processes/showcase?f=html")
    visit.control("name").fill("Ada")
    choose(visit, tmp_path / "first.png", PNG)
    expect(visit.field("picture")).to_contain_text("Reading first.png")
    page.evaluate("goOn()")
    expect(visit.field("picture")).to_contain_text("first.png, 68 B loaded")

    choose(visit, tmp_path / "second.png", b"second")
    expect(visit.field("picture")).to_contain_text("Reading second.png")
    visit.execute()
    expect(page.locator("#form-status")).to_have_text("Reading files …")
    page.evaluate("goOn()")

    assert inputs_sent(visit)["picture"] == base64.b64encode(b"second").decode()


def test_a_file_that_is_chosen_can_be_removed(visit: Visit, tmp_path: Path) -> None:
    visit.open("/processes/showcase?f=html")
    visit.control("name").fill("Ada")
    remove = visit.field("picture").get_by_role("button", name="Remove Picture: File")
    expect(remove).to_be_hidden()
    choose(visit, tmp_path / "picture.png", PNG)
    expect(visit.field("picture")).to_contain_text("picture.png, 68 B loaded")
    remove.click()
    expect(visit.field("picture")).not_to_contain_text("loaded")
    expect(remove).to_be_hidden()
    visit.execute()

    assert "picture" not in inputs_sent(visit)


def test_a_file_that_cannot_be_read_is_told_of_and_not_sent(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script(SLOW_FILES)
    page = visit.open("/processes/showcase?f=html")
    visit.control("name").fill("Ada")
    choose(visit, tmp_path / "picture.png", PNG)
    expect(visit.field("picture")).to_contain_text("Reading picture.png")
    (tmp_path / "picture.png").unlink()
    visit.execute()
    page.evaluate("goOn()")

    problem = visit.field("picture").locator(".problem")
    expect(problem).to_contain_text("picture.png cannot be read: ")
    expect(page.locator("#form-problem")).to_contain_text("Some inputs need attention.")
    expect(page.locator("#result")).to_be_hidden()
    visit.field("picture").get_by_role("button", name="Remove Picture: File").click()
    expect(problem).to_be_hidden()
    visit.execute()
    assert "picture" not in inputs_sent(visit)


def test_a_large_file_is_no_part_of_the_command_and_not_worked_on_for_it(
    visit: Visit, tmp_path: Path
) -> None:
    visit.page.add_init_script("""
        const stringify = JSON.stringify;
        window.longest = 0;
        JSON.stringify = (...values) => {
            const text = stringify(...values);
            window.longest = Math.max(window.longest, text.length);
            return text;
        };
    """)
    page = visit.open("/processes/showcase?f=html")
    page.locator("#command summary").click()
    choose(visit, tmp_path / "picture.png", bytes(300_000))
    expect(page.locator("#command-text")).to_contain_text("--data @request.json")
    visit.field("picture").get_by_role("button", name="Remove Picture: File").click()
    visit.control("name").fill("Ada")

    expect(page.locator("#command-text")).to_contain_text('"name":"Ada"')
    assert page.evaluate("window.longest") < 20_000


def test_what_is_too_much_for_a_browser_is_said_to_be(visit: Visit) -> None:
    page = visit.open("/processes/showcase?f=html")
    visit.control("name").fill("Ada")
    page.locator("#command summary").click()
    expect(page.locator("#command-text")).to_contain_text("Ada")
    # with texts of half a gigabyte, as browsers raise it
    page.evaluate("""() => {
        const stringify = JSON.stringify;
        JSON.stringify = (value, ...more) => {
            if (value?.inputs?.name) throw new RangeError("Invalid string length");
            return stringify(value, ...more);
        };
    }""")
    visit.execute()

    expect(page.locator("#form-problem")).to_contain_text("too much for a browser")
    expect(page.get_by_role("button", name="Execute")).to_be_focused()


@pytest.mark.parametrize("body", ["<html>the proxy is being updated</html>", ""])
def test_a_job_is_followed_beyond_an_answer_of_another_server(
    visit: Visit, gate: Path, body: str
) -> None:
    path = visit.service.submit("held", {"name": "Ada", "until": str(gate)})
    page = visit.page
    answer = {"status": 200, "content_type": "text/html", "body": body}
    page.route(f"**{path}", lambda route: route.fulfill(**answer))
    visit.open(f"{path}?f=html")

    expect(page.locator("#connection")).to_contain_text("Trying again")
    page.unroute(f"**{path}")
    gate.touch()
    expect_status(visit, "successful")
    expect(page.locator("#connection")).to_be_empty()


def test_outputs_by_reference_are_shown_too(visit: Visit) -> None:
    page = visit.open("/processes/showcase?f=html")
    visit.control("name").fill("Ada")
    for output_id in ("inputs", "drawing", "report"):
        page.locator(f'[data-output-id="{output_id}"]').uncheck()
    for choice in page.locator("[data-transmission]").all():
        choice.select_option("reference")
    visit.execute()

    expect(visit.output("table").locator("td").first).to_have_text("a, b")
    expect(visit.output("shapes").locator("path.leaflet-interactive")).to_have_count(1)
    expect(page.locator("#result article")).to_have_count(2)


def test_what_clients_and_processes_say_is_never_run(visit: Visit) -> None:
    inputs = {"name": SCRIPT, "tags": [SCRIPT, "</script><script>window.hacked = 1</script>"]}
    path = visit.service.submit("showcase", inputs)
    visit.service.ended(path)
    page = visit.open(f"{path}?f=html")
    step = page.locator(".log-line", has_text="Step 1 <script>")
    expect(step).to_be_visible()
    visit.output("shapes").locator("path.leaflet-interactive").click()
    expect(page.locator(".leaflet-popup")).to_contain_text("<script>")
    assert page.locator("img[src=x]").count() == 0
    assert not visit.is_hacked()

    for other in (f"{path}/logs", f"{path}/results", "/processes/showcase", "/processes", "/jobs"):
        page = visit.open(f"{other}?f=html")
        expect(page.locator("main")).to_contain_text("Showcase" if "log" not in other else "Step")
        assert page.locator("main img[src=x]").count() == 0
        assert not visit.is_hacked()
    visit.open(f"/jobs/{SCRIPT}?f=html")
    assert not visit.is_hacked()


@both_applications
def test_pages_let_no_script_in_but_their_own(service: Service) -> None:
    for path in ("/processes", "/processes/echo", "/jobs", "/jobs/none"):
        headers = service.client.get(path, params={"f": "html"}).headers
        assert "script-src 'self';" in headers["Content-Security-Policy"]


@both_applications
def test_files_of_pages_are_sent_once_and_no_others_are(service: Service) -> None:
    script = service.client.get("/pygeoapi-prefect/job.js")

    assert script.headers["Content-Type"].startswith("text/javascript")
    known = {"If-None-Match": script.headers["ETag"]}
    assert service.client.get("/pygeoapi-prefect/job.js", headers=known).status_code == 304
    for name in ("none.js", "..%2Fapi%2Fassets.py", "%2Fetc%2Fpasswd"):
        answer = service.client.get(f"/pygeoapi-prefect/{name}", follow_redirects=True)
        assert answer.status_code == 404


@both_applications
def test_the_definition_of_the_api_is_shown_and_tried(visit: Visit) -> None:
    page = visit.open("/openapi?f=html")
    operation = page.locator("#operations-jobs-getJobs")
    operation.get_by_role("button", name="get /jobs", exact=False).first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200")
    expect(answer).to_contain_text("numberReturned")


def test_no_page_about_the_definition_has_scripts_from_elsewhere(visit: Visit) -> None:
    page = visit.open("/openapi?f=html&ui=redoc")

    expect(page.locator("#operations-jobs-getJobs")).to_be_visible()


def test_a_page_goes_on_when_the_server_is_back(visit: Visit, gate: Path) -> None:
    path = visit.service.submit("held", {"name": "Ada", "until": str(gate)})
    page = visit.open(f"{path}?f=html")
    page.context.set_offline(True)

    expect(page.locator("#connection")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    gate.touch()
    expect_status(visit, "successful")
    expect(page.locator("#connection")).to_be_empty()


def test_a_process_is_executed_by_keyboard_alone(visit: Visit) -> None:
    page = visit.open("/processes/echo?f=html")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none"
                return
        pytest.fail(f"Tab does not lead to {selector}")

    tab_to(".skip-link")
    page.keyboard.press("Enter")
    tab_to("[data-input-id=message] input")
    page.keyboard.type("hello")
    tab_to("[data-input-id=numbers] button")
    page.keyboard.press("Enter")
    page.keyboard.type("7")
    tab_to("#submit")
    page.keyboard.press("Enter")

    expect(visit.output("message").locator("pre")).to_have_text("hello")
    expect(visit.output("numbers").locator("pre")).to_contain_text("7")
    expect(page.locator("#result")).to_be_focused()


def test_every_control_has_a_name(visit: Visit) -> None:
    for path in ("/processes/showcase", "/processes/echo", "/jobs"):
        page = visit.open(f"{path}?f=html")
        nameless = page.eval_on_selector_all(
            "main input:not([type=hidden]), main select, main textarea, main button",
            """controls => controls
                .filter(one => one.checkVisibility())
                .filter(one => !one.labels?.length && !one.getAttribute("aria-label"))
                .filter(one => one.tagName !== "BUTTON" || !one.textContent.trim())
                .map(one => one.outerHTML)""",
        )
        assert nameless == []


def test_pages_fit_on_a_phone(phone: Visit) -> None:
    path = phone.service.submit("showcase", {"name": "x" * 200})
    phone.service.ended(path)

    pages = ("/", "/processes", "/processes/showcase", "/processes/echo", "/jobs")
    for other in (*pages, path, f"{path}/logs", f"{path}/results"):
        page = phone.open(f"{other}?f=html")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], other
