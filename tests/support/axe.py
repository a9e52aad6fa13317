"""axe-core, which finds what keeps people from using a page: contrast, labels, landmarks, …"""

from __future__ import annotations

from pathlib import Path

from support.browser import Page
from support.commands import require

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".cache/npm/node_modules/axe-core/axe.min.js"


def require_accessible(page: Page) -> None:
    """Fail if axe-core finds something on the page that is open; skip if it is not installed."""
    require(SCRIPT.exists(), "axe-core is missing (npm install --prefix .cache/npm axe-core@4)")
    page.driver.execute_script(SCRIPT.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script("axe.run().then(arguments[0])")
    faults = [
        f"{fault['id']}: {fault['help']}: " + "; ".join(node["html"] for node in fault["nodes"])
        for fault in found["violations"]
    ]
    assert not faults, "\n".join(faults)
