"""Draw docs/demo.svg, the picture in the README, from a real run of the demo (`make picture`)."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 88
PICTURE = Path(__file__).with_name("demo.svg")


def main() -> int:
    """Run the demo and draw its output."""
    command = [sys.executable, "-m", "jobledger.service.cli.main", "demo"]
    env = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "LINES": "60"}
    env.pop("NO_COLOR", None)
    done = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=True)
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text("$ make demo", style="bold"))
    console.print(Text.from_ansi(done.stdout.decode().rstrip()))
    svg = console.export_svg(title="jobledger demo")
    # Downloaded fonts would make the picture look different without a network; any monospace font will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(re.sub(r"font-family: [^;]*Fira Code[^;]*;", "font-family: monospace;", svg))
    return 0


if __name__ == "__main__":
    sys.exit(main())
