#!/usr/bin/python3
"""Draws docs/playground-light.png and docs/playground-dark.png: the playground in Chromium, while two settings stream.

    tools/draw_playground.py [--bin build/release/bin] [--out docs]

Needs tools/install_dependencies.sh --browser, and pngquant (apt) to make the pictures small.
"""
import argparse
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "system"))
import browser  # noqa: E402

WIDTH, HEIGHT = 1320, 1010
SMALLER = ["pngquant", "--force", "--strip", "--speed", "1", "--ext", ".png", "160"]


def served(programs, model):
    """A server, and where it serves HTTP."""
    server = subprocess.Popen([programs / "h2oserve", "serve", "--model", model, "--tp", "1", "--listen", "127.0.0.1:0",
                               "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in server.stdout:
        if line.startswith("http on "):
            return server, line.split()[-1]
    raise SystemExit(f"the server ended with {server.wait()}")


def draw(page, address, out):
    page.size(WIDTH, HEIGHT)
    page.open(address)
    page.until(lambda: "ready" in page.text("#model"), "the server is ready")
    page.click(browser.LONG)
    page.click("#compare")
    page.fill("seed", 7)
    page.fill("max_tokens", 160)
    page.run()
    page.script("""
        const kept = (cell, position) => cell === 1 && position > 30;
        pointAt({ row: 14, position: panes[0].held.row(2, 2).cells.findIndex(kept) });
        scrollTo(0, 0);""")
    for scheme in ("light", "dark"):
        page.colours(scheme)
        path = out / f"playground-{scheme}.png"
        page.driver.save_screenshot(str(path))
        subprocess.run([*SMALLER, path], check=True)
        print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=REPOSITORY / "build" / "release" / "bin")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs")
    options = parser.parse_args()
    if browser.missing():
        raise SystemExit(browser.missing())
    server, address = served(options.bin, REPOSITORY / "models" / "opt-demo")
    page = browser.Browser()
    try:
        draw(page, address, options.out)
    finally:
        page.quit()
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
