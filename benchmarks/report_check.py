"""Look at report pages in headless Chromium: python benchmarks/report_check.py PAGE… [--shots FOLDER] [--chromium PATH]

Needs `pip install playwright` and a Chromium. Checks each page at 400, 800 and 1600 px, light and dark: nothing wider than
the window, no console message, no request, text contrast of 4.5 and more, tables that sort by keyboard, pages when printed.
Prints a line a check; exit code 1 when one fails.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  let worst = [99, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || ["SCRIPT", "STYLE"].includes(e.tagName) || !e.getClientRects().length) continue;
    if (e.closest('[id$="on-cell"]')) continue;  // lies on a coloured cell of a picture, not on the page
    const style = getComputedStyle(e), drawn = e.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(rgb(drawn).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, text.slice(0, 40)];
  }
  return worst;
}"""
COLUMN = (
    "(k) => [...document.querySelector('main table.sortable').tBodies[0].rows].map(r => r.cells[k].dataset.key ?? '')"
)


def check(browser, path: Path, shots: Path | None) -> list[tuple[bool, str]]:
    """(passed, what) of every check of one page."""
    found = []
    for scheme in ("light", "dark"):
        for width in (400, 800, 1600):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said, requested = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, requested=requested: requested.append(request.url[:60]))
            page.goto(path.resolve().as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            requested = [url for url in requested if not url.startswith(("data:", path.resolve().as_uri()))]
            ratio, text = page.evaluate(CONTRAST)
            where = f"{path.name} {width} px {scheme}"
            found += [
                (wide <= width, f"{where}: page is {wide} px wide"),
                (not said, f"{where}: console {said}"),
                (not requested, f"{where}: requests {requested}"),
                (ratio >= 4.5, f"{where}: least contrast {ratio:.2f} ({text!r})"),
            ]
            if shots:
                page.screenshot(path=shots / f"{path.stem}-{width}-{scheme}.png", full_page=True)
            page.close()
    return found + by_keyboard(browser, path) + printed(browser, path, shots)


def by_keyboard(browser, path: Path) -> list[tuple[bool, str]]:
    """Tab to a heading of the first table, Enter twice: the column must sort up, then down."""
    page = browser.new_page(viewport={"width": 800, "height": 900})
    page.goto(path.resolve().as_uri())
    inside = "document.activeElement.closest('main table.sortable th')?.cellIndex ?? -1"
    numeric = page.evaluate("document.querySelector('main table.sortable td.number').cellIndex")
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(inside) == numeric:
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    found = [(outline != "none", f"{path.name}: focus outline {outline}")]
    for order, reverse in (("ascending", False), ("descending", True)):
        page.keyboard.press("Enter")
        column = [float(key) for key in page.evaluate(COLUMN, numeric) if key]
        said = page.evaluate("document.activeElement.closest('th')?.getAttribute('aria-sort')")
        found.append((column == sorted(column, reverse=reverse) and said == order, f"{path.name}: Enter sorts {said}"))
    page.close()
    return found


def printed(browser, path: Path, shots: Path | None) -> list[tuple[bool, str]]:
    """A section must print on at most 8 pages."""
    page = browser.new_page(color_scheme="dark")
    page.goto(path.resolve().as_uri())
    pdf = page.pdf(format="A4", prefer_css_page_size=True)
    sections = page.evaluate("document.querySelectorAll('main > section').length")
    page.close()
    if shots:
        (shots / f"{path.stem}.pdf").write_bytes(pdf)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    return [(0 < pages <= 8 * sections, f"{path.name}: {sections} sections print on {pages} pages")]


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="Keep screenshots and the PDF here.")
    parser.add_argument(
        "--chromium", default=shutil.which("chromium"), help="Browser; the first `chromium` by default."
    )
    words = parser.parse_args()
    if words.shots:
        words.shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=words.chromium, args=["--no-sandbox"])
        found = [line for path in words.pages for line in check(browser, path, words.shots)]
        browser.close()
    for passed, what in found:
        print("pass" if passed else "FAIL", what)
    sys.exit(not all(passed for passed, _ in found))


if __name__ == "__main__":
    main()
