"""The playground, in a real browser: what it shows is what the API answers."""
import json
import re

import pytest

import browser
from browser import LONG
from conftest import System, until
from test_access import bearer, key_file, row
from test_http import address_of, ask

KEY = "a-key-for-the-playground"
PROMPT = "To install the package, "


@pytest.fixture(scope="module")
def http(stubs, tmp_path_factory):
    """Where one worker serves who has the key."""
    system = System(stubs)
    file = key_file(tmp_path_factory.mktemp("keys") / "keys.json", row("people", KEY))
    coordinator = system.coordinator("--http", "127.0.0.1:0", "--api-keys", file, tp=1)
    system.worker(coordinator)
    address = address_of(coordinator)
    until(lambda: ask(address, "/readyz")[0] == 200, "it is ready")
    yield address
    system.end()


@pytest.fixture(scope="module")
def chromium():
    if browser.missing():
        pytest.skip(browser.missing())
    chromium = browser.Browser()
    yield chromium
    chromium.quit()


@pytest.fixture
def page(http, chromium):
    """The page with the key, which nobody has complained of at the end."""
    chromium.open(http)
    chromium.fill("key", KEY + browser.Keys.TAB)
    chromium.until(lambda: "ready" in chromium.text("#model"), "the server is ready")
    chromium.fill("temperature", "0.8")
    chromium.fill("seed", "11")
    yield chromium
    assert chromium.complaints() == []


def complete(http, **fields):
    """The API's whole answer to what the page asks."""
    body = {"max_tokens": 128, "temperature": 0.8, "seed": 11, "kv_policy": "h2o", "kv_budget": "20%", **fields}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    status, _, text = ask(http, "/v1/completions", "POST", json.dumps(body), headers)
    assert status == 200, text
    return json.loads(text)


def held_of(trace):
    """{(layer, head): positions} at the end of a trace."""
    held = {}
    for one in trace:
        positions = held.setdefault((one["layer"], one["head"]), set())
        positions.update(one.get("kept", ()))
        if "pos" in one:
            positions.add(one["pos"])
            positions.discard(one["evicted"])
    return {head: sorted(positions) for head, positions in held.items()}


def test_the_page_is_served_to_everybody(http):
    status, headers, body = ask(http, "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", body.replace("${location.origin}", "")), "it names no other server"
    assert headers["Cache-Control"] == "no-cache"
    status, again, body = ask(http, "/", headers={"If-None-Match": headers["ETag"]})
    assert (status, body) == (304, "") and again["ETag"] == headers["ETag"]
    assert ask(http, "/", "HEAD")[::2] == (200, "")
    assert ask(http, "/", "POST", "{}", {"Authorization": f"Bearer {KEY}"})[0] == 405


def test_a_key_is_asked_for(http, chromium):
    chromium.open(http)
    chromium.until(lambda: "key is needed" in chromium.text("#model"), "the page says that it needs a key")
    chromium.click(LONG)
    chromium.fill("key", "wrong")
    chromium.click("#run")
    chromium.until_status("The server does not know this key")
    assert "does not know this key" in chromium.text("[data-pane=a] .notice")
    assert chromium.script("return document.activeElement.id") == "key"
    assert chromium.find("#key").get_attribute("aria-invalid") == "true"
    chromium.fill("key", KEY + browser.Keys.CONTROL + browser.Keys.ENTER)
    chromium.until_status("Done")
    assert not chromium.find("[data-pane=a] .notice").is_displayed()
    assert chromium.script("return [sessionStorage.length, localStorage.length]") == [1, 0]
    assert chromium.complaints() == []


def test_an_answer_streams_and_its_figures_are_the_api_s(page, http):
    page.fill("prompt", PROMPT)
    page.count_changes("a")
    page.run()
    assert page.changes() > 3, "the text grew while it came"
    for budget in ("20%", "48"):
        if budget != "20%":
            page.fill("budget-a", budget)
            page.run()
        whole = complete(http, prompt=PROMPT, kv_budget=budget)
        usage = whole["usage"]
        assert page.answer("a") == whole["choices"][0]["text"]
        assert page.usage("a") == usage
        assert page.figure("a", "slots") == str(usage["kv"]["slots_held"]) == {"20%": "32", "48": "48"}[budget]
        assert page.figure("a", "evicted") == str(usage["kv"]["tokens_evicted"]) != "0"
        assert page.figure("a", "mass") == f"{100 * usage['kv']['attention_mass_kept']:.1f} %"
        share = usage["kv"]["bytes"] / usage["kv"]["bytes_full"]
        assert page.figure("a", "bytes").endswith(f"· {100 * share:.0f} %")
        assert page.figure("a", "tokens") == f"{usage['prompt_tokens']} + {usage['completion_tokens']}"
    assert float(page.figure("a", "rate")) > 0 and page.figure("a", "ttft").endswith(" ms")


def test_two_settings_stream_at_once(page, http):
    page.click(LONG)
    page.click("#compare")
    page.choose("b", "recent", "64")
    page.run()
    (first_a, last_a), (first_b, last_b) = page.streamed("a"), page.streamed("b")
    assert max(first_a, first_b) < min(last_a, last_b), "both stream at once"
    prompt = page.script("return document.getElementById('prompt').value")
    for pane, fields in (("a", {}), ("b", {"kv_policy": "recent", "kv_budget": 64})):
        whole = complete(http, prompt=prompt, kv_trace=True, **fields)
        assert page.answer(pane) == whole["choices"][0]["text"]
        assert page.usage(pane)["kv"] == whole["usage"]["kv"]
        assert page.held(pane) == held_of(whole["choices"][0]["kv_trace"])
    assert page.answer("a") != page.answer("b")


def test_the_keyboard_is_enough(page, http):
    keys = browser.Keys
    page.script("document.querySelector('.skip').focus()")
    page.press(keys.TAB)
    seen = []
    for _ in range(30):
        focus = page.driver.switch_to.active_element
        seen.append(focus.get_attribute("id") or focus.tag_name)
        assert focus.accessible_name, seen
        ring = page.script("""const e = document.activeElement;
            return getComputedStyle(e.type === 'radio' ? e.nextSibling : e).outlineStyle;""")
        assert ring == "solid", f"{seen[-1]} shows that it has the focus"
        if seen[-1] == "stop" or seen[-1] == "run":
            break
        focus.send_keys(keys.TAB)
    order = ["key", "prompt", "max_tokens", "temperature", "top_p", "seed", "policy-a-h2o", "budget-a", "compare", "trace", "run"]
    assert [name for name in seen if name in order] == order, seen
    page.fill("max_tokens", 1500)
    page.script("document.getElementById('prompt').focus()")
    page.press(PROMPT, keys.CONTROL, keys.ENTER)
    page.until(lambda: page.answer("a"), "it streams")
    page.press(keys.ESCAPE)
    page.until_status("Stopped")
    assert int(page.figure("a", "tokens").split()[-1].replace(",", "")) < 1500
    page.script("document.getElementById('max_tokens').focus()")
    page.press(keys.CONTROL, "a")
    page.press(keys.BACKSPACE, "8", keys.ENTER)
    page.until_status("Done")
    page.script("document.querySelector('[data-pane=a] canvas').focus()")
    page.press(keys.ARROW_RIGHT, keys.ARROW_RIGHT, keys.ARROW_DOWN)
    whole = complete(http, prompt=PROMPT, max_tokens=8, return_token_ids=True)
    token = whole["choices"][0]["prompt_token_ids"][2]
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    text = json.loads(ask(http, "/detokenize", "POST", json.dumps({"tokens": [token]}), headers)[2])["prompt"]
    said = f"{text.replace(' ', '␣')} prompt, position 2: kept by layer 0, head 1"
    page.until(lambda: page.text("[data-pane=a] .readout") == said, said)


def test_light_and_dark_are_readable(page, tmp_path):
    page.fill("prompt", PROMPT)
    page.fill("max_tokens", 8)
    page.run()
    backs = []
    for scheme in ("light", "dark"):
        page.colours(scheme)
        pairs = page.script("""
            const numbers = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const style = (selector) => getComputedStyle(document.querySelector(selector));
            const card = numbers(style('.pane').backgroundColor), back = numbers(style('body').backgroundColor);
            return [['body', back], ['#status', back], ['.figures dt', card], ['.figures dd', card], ['.finish', card], ['.badge', card],
                    ['button.primary', numbers(style('button.primary').backgroundColor)]]
              .map(([selector, under]) => [selector, numbers(style(selector).color), under]);""")
        for selector, colour, under in pairs:
            if selector != ".badge":
                assert contrast(colour, under) >= 4.5, f"{selector} in {scheme}"
        backs.append(luminance(pairs[0][2]))
        assert page.driver.save_screenshot(str(tmp_path / f"{scheme}.png"))
    assert backs[0] > 0.8 and backs[1] < 0.05
    page.colours("light")
    page.size(380, 800)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    page.size(1400, 1160)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """As WCAG 2 defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_what_is_wrong_is_told_where_it_is_wrong(page):
    page.fill("prompt", PROMPT)
    page.fill("temperature", "hot")
    page.click("#run")
    page.until_status("temperature is")
    assert page.script("return document.activeElement.id") == "temperature"
    page.fill("temperature", "0")
    page.fill("budget-a", "no")
    page.click("#run")
    page.until_status("The server refused")
    assert page.script("return document.activeElement.id") == "budget-a"
    page.fill("budget-a", "20%")
    with page.offline():
        page.click("#run")
        page.until_status("Lost the connection")
    page.click("[data-pane=a] .notice button")
    page.until_status("Done")


def test_a_server_that_is_not_ready_says_when_to_come_back(system, chromium):
    address = address_of(system.coordinator("--http", "127.0.0.1:0", tp=1))
    chromium.open(address)
    chromium.until(lambda: "not ready" in chromium.text("#model"), "the page says so")
    chromium.click(LONG)
    chromium.click("#run")
    chromium.until_status("The server is busy or not ready")
    assert "Try again" in chromium.text("[data-pane=a] .notice button")
    assert chromium.complaints() == []
