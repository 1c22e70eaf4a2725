"""Screenshots of a report: desktop (1280 pixels), dark, and phone (375), as small PNGs.

    python scripts/screenshots.py REPORT.html OUTDIR [--whole] [--name NAME] [--height PIXELS]

Needs Chromium (Debian: apt-get install chromium). Without --whole what is seen before scrolling.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from chromium import Chromium

VIEWS = {
    "desktop": dict(width=1280, dark=False, scale=1),
    "dark": dict(width=1280, dark=True, scale=1),
    "phone": dict(width=375, dark=False, scale=1.5),
}
COLOURS = 256  # of the palette: pages are mostly flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--whole", action="store_true", help="the whole page")
    parser.add_argument("--name", help="of the files; by default that of the report")
    parser.add_argument("--height", type=int, default=1400, help="of the window")
    given = parser.parse_args()
    given.outdir.mkdir(parents=True, exist_ok=True)
    with Chromium() as browser:
        for view, options in VIEWS.items():
            page = browser.page(given.report, height=given.height, **options)
            path = page.screenshot(given.outdir / f"{given.name or given.report.stem}-{view}.png", whole=given.whole)
            image = Image.open(path).convert("RGB")
            image = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
            image.save(path, optimize=True)
            print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")
            page.close()


if __name__ == "__main__":
    main()
