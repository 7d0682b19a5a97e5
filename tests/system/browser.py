"""The playground in headless Chromium, as a person at a screen sees it."""
import contextlib
import json
import shutil
import time

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 60  # seconds that anything may take, on a busy machine
LONG = "[data-example=long]"  # the button of an example


def missing():
    """Why there is no browser, or None."""
    lacks = [name for name, there in (("selenium", webdriver), ("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not there]
    return f"no {', '.join(lacks)}; tools/install_dependencies.sh --browser, on Debian" if lacks else None


class Browser:
    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        # Root needs --no-sandbox; containers have little /dev/shm.
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                         "--no-proxy-server", "--lang=en"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(service=Service(DRIVER), options=options)
        self.driver.set_script_timeout(30)
        self.size(1400, 1160)

    def quit(self):
        self.driver.quit()

    def open(self, address):
        self.driver.get(f"http://{address}/")
        self.script("sessionStorage.clear()")
        self.driver.get(f"http://{address}/")

    def size(self, width, height, scale=1):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False})

    def colours(self, scheme):
        """`scheme`: light or dark."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        time.sleep(0.2)  # the canvases are drawn again

    @contextlib.contextmanager
    def offline(self):
        self.driver.execute_cdp_cmd("Network.enable", {})
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **conditions})
        yield
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **conditions})

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def click(self, selector):
        self.find(selector).click()

    def fill(self, field, text):
        element = self.find(f"#{field}")
        element.clear()
        element.send_keys(str(text))

    def choose(self, pane, policy, budget=None):
        """The policy and budget of setting a or b."""
        self.find(f"#policy-{pane}-{policy}").send_keys(Keys.SPACE)
        if budget is not None:
            self.fill(f"budget-{pane}", budget)

    def press(self, *keys):
        """In whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, condition, what, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}; the page says {self.text('#status')!r}")

    def until_status(self, start):
        return self.until(lambda: self.text("#status").startswith(start) and self.text("#status"), start)

    def run(self):
        self.click("#run")
        self.until_status("Done")

    def answer(self, pane):
        """The text that came, as it is."""
        return self.script(f"return document.querySelector('[data-pane={pane}] .text').textContent")

    def count_changes(self, pane):
        """From now on, how often the text of an answer grows: see `changes`."""
        self.script(f"""
            window.changes = 0;
            new MutationObserver(() => ++window.changes).observe(document.querySelector('[data-pane={pane}] .text'), {{ childList: true }});""")

    def changes(self):
        return self.script("return window.changes")

    def streamed(self, pane):
        """When the first and the last token came, in the page's milliseconds."""
        return self.script(f"const pane = panes['ab'.indexOf('{pane}')]; return [pane.first, pane.last]")

    def figure(self, pane, name):
        return self.text(f"[data-pane={pane}] [data-figure={name}]")

    def usage(self, pane):
        """The usage that the answer's stream ended with."""
        return json.loads(self.find(f"article[data-pane={pane}]").get_attribute("data-usage"))

    def held(self, pane):
        """{(layer, head): positions that the page shows as kept}."""
        rows = self.script(f"""
            const held = panes['ab'.indexOf('{pane}')].held;
            return [...held.rows].map(([key, row]) => [key, [...row.cells.keys()].filter((i) => row.cells[i] === 1)]);""")
        return {(key // 65536, key % 65536): positions for key, positions in rows}

    def complaints(self):
        """What the browser's log has against the page: violations of its policy and errors of its script."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["level"] == "SEVERE" and entry["source"] != "network" or "Content Security Policy" in entry["message"]]
