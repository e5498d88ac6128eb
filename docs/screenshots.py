#!/usr/bin/env python3
"""Make the pictures of the documentation from reports, with Chromium without a window.

    python docs/screenshots.py report=results/multiqc/multiqc_report.html tissue=...

Each picture is one page of a report, cut to a fixed size; without arguments the pictures are listed. The reports that
they are of are named in docs/developing.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
LARGEST = 200_000
"""Bytes that a picture may have."""


@dataclass(frozen=True)
class Picture:
    """A page of a report as a picture.

    Attributes
    ----------
    path
        Where it is, from docs/.
    page
        Beginning of the id of the page in the report.
    width, height
        Its size in pixels.
    """

    path: str
    page: str
    width: int
    height: int


PICTURES = {
    "report": Picture("report.png", "unbatch_summary_page", 1140, 645),
    "tissue": Picture("tissue.png", "unbatch_tissue", 805, 833),
    "first-screen": Picture("tutorials/first-screen.png", "unbatch_summary_page", 1140, 958),
    "effect": Picture("tutorials/effect.png", "unbatch_effect_0_1_found_page", 900, 348),
}

ALONE = """
<script>
window.addEventListener("load", () => {
  const page = document.querySelector('[id^="mqc-section-wrapper-PAGE"]');
  const frame = document.createElement("div");
  // the style of the pages is in the body, too
  frame.append(...document.querySelectorAll("body style"), page);
  // the page begins with an empty line
  frame.style.cssText = "padding: 0 8px; margin-top: -18px; background: white";
  document.body.replaceChildren(frame);
  window.scrollTo(0, 0);
});
</script>
"""
"""Leaves one page of a report and nothing else, in light colours."""


def take(picture: Picture, report: Path, chromium: str) -> None:
    """Write one picture, or end with a sentence where the report has no such page."""
    html = report.read_text(encoding="utf-8")
    if f'id="mqc-section-wrapper-{picture.page}' not in html:
        sys.exit(f"{report}: no page whose id begins with {picture.page!r}")
    end = html.rindex("</body>")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        page.write_text(html[:end] + ALONE.replace("PAGE", picture.page) + html[end:], encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
        size = [f"--window-size={picture.width},{picture.height}", "--virtual-time-budget=20000"]
        data = [f"--user-data-dir={folder}/profile", f"--screenshot={shot}", page.as_uri()]
        subprocess.run([chromium, *options, *size, *data], check=True, capture_output=True, timeout=300)
        # 256 colours: a quarter of the size
        image = Image.open(shot).convert("RGB").crop((0, 0, picture.width, picture.height))
        target = DOCS / picture.path
        image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        sys.exit(f"{target}: {target.stat().st_size:,} bytes, more than {LARGEST:,}")
    print(target)


def main() -> None:
    """Make the pictures that are named."""
    wanted = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    unknown = set(wanted) - set(PICTURES)
    if unknown or not wanted:
        listed = "\n".join(f"  {name}=REPORT  docs/{each.path}" for name, each in PICTURES.items())
        sys.exit(f"expected NAME=REPORT, where NAME is one of\n{listed}")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is missing: install it, or name it in CHROMIUM")
    for name, report in wanted.items():
        take(PICTURES[name], Path(report), chromium)


if __name__ == "__main__":
    main()
