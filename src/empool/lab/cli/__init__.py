"""The command `empool`."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence

_EXTRAS = {  # that bring a package, where it is not the lab's own
    **dict.fromkeys(("timm", "torchvision"), "imagenet"),
    **dict.fromkeys(("mlflow", "sqlalchemy", "alembic"), "mlflow"),
    **{package: package for package in ("ray", "tensorboard", "wandb")},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default what was typed; an error that a user can put right is one line on standard error.

    The exit code is 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        import typer

        from empool.lab.cli.commands import app
        from empool.lab.errors import LabError, OwnError
    except ModuleNotFoundError as error:
        return _not_installed(error)
    command = typer.main.get_command(app)
    try:
        with command.make_context("empool", given, obj=shlex.join(["empool", *given])) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as followed:  # Another process speaks for this one.
        return int(followed.code or 0)
    except (LabError, OSError) as error:
        if isinstance(error, OwnError):
            traceback.print_exception(error.__cause__)
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _not_installed(error)
    except KeyboardInterrupt as stopped:
        from empool.lab.train.signals import exit_code

        return exit_code(stopped)
    except Exception as error:
        # Typer's usage errors; depending on its version their class is Click's or a copy of it.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message(), 2)
    return 0


def _fail(message: str, code: int = 1) -> int:
    print(f"empool: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _not_installed(error: ModuleNotFoundError) -> int:
    missing = (error.name or "").partition(".")[0]
    if missing in ("", "empool"):
        raise error
    extra = _EXTRAS.get(missing, "lab")
    return _fail(f"the lab needs {missing}, which is not installed: pip install 'empool[{extra}]'")
