"""`empool bench`, which is `python -m empool.bench` where nothing but PyTorch is installed."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from empool.bench import bench, cases, markdown
from empool.lab.errors import LabError
from empool.lab.train import signals

_DESCRIPTION = "Time pooling layers and operators beside PyTorch's, the obvious way to write them, and a plain copy."


def main(arguments: Sequence[str] | None = None, program: str = "python -m empool.bench") -> int:
    """Measure, or write a table of what was measured; return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(program).parse_args(given)
    try:
        if options.markdown:
            markdown.write(options.markdown, options.into)
            return 0
        if options.into:
            raise LabError("--into is for --markdown: name the file that empool bench --json wrote")
        bench(
            options.device,
            options.json,
            quick=options.quick,
            threads=options.threads,
            dtypes=options.dtypes.split(","),
            shapes=cases.read_shapes(options.shapes) if options.shapes else None,
            only=options.only,
            seconds=options.seconds,
            base=options.base,
            command=shlex.join([*program.split(), *given]),
        )
    except (LabError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        return signals.exit_code(stopped)
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=_DESCRIPTION)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--quick", action="store_true", help="a subset, in at most a minute")
    parser.add_argument("--threads", type=int, default=2, help="that PyTorch uses on the CPU (default: 2)")
    parser.add_argument(
        "--dtypes", default=",".join(cases.DTYPES), help="with commas between; the first is measured most"
    )
    parser.add_argument("--shapes", help="such as 64x64x56x56,128x64x32x32")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose line has all of these words")
    parser.add_argument("--seconds", type=float, help="that a case takes (default: 1, or 0.3 on a GPU)")
    parser.add_argument("--base", metavar="REV", help="compare with a git revision, once the kernel tests pass")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="measure nothing: write the table of this file")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="with --markdown: put it between the file's marks, not on the screen"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
