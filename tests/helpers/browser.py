"""Pages in a real browser, where one is installed: Chromium without a window, driven by a page around them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AROUND = """<!doctype html><meta charset="utf-8"><body><pre id="out"></pre><script>
const out = {};
const frame = document.createElement("iframe");
const loaded = () => new Promise(done => frame.addEventListener("load", done, { once: true }));
async function open(name, width, height = 800) {
  frame.style.width = `${width}px`; frame.style.height = `${height}px`; frame.style.border = 0;
  const done = loaded();
  frame.src = name;
  document.body.append(frame);
  await done;
  return frame.contentDocument;
}
const shown = page => [...page.querySelectorAll("article")].filter(article => article.getClientRects().length);
function choose(page, id, value) { page.getElementById(id).value = value; }
(async () => {
  try { %s } catch (error) { out.error = String(error); }
  document.getElementById("out").textContent = JSON.stringify(out);
  document.title = "done";
})();
</script>"""


def look(folder: Path, script: str, *, dark: bool = False) -> dict[str, Any]:
    """What `script` puts into `out`. It may `await open(NAME, WIDTH)` for the document of a page in `folder`."""
    (folder / "around.html").write_text(AROUND % script, encoding="utf-8")
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=8000", "--window-size=1300,900", "--dump-dom", (folder / "around.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert "error" not in result, result["error"]
    return result
