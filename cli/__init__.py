"""The `noiseshift` command; each command lives in a file of its own and is imported only when it runs."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from noiseshift import distributed

COMMANDS = {
    "measure": "Measure the noise shift of a checkpoint: the main job.",
    "approx": "Test the paper's first-order approximation, Statement 1, on a checkpoint.",
    "correct": "What noise awareness guidance and its relatives do to the shift, to FID and to the cost.",
    "compare": "Samplers, step counts, guidance and checkpoints in one table and figures for a paper.",
    "report": "One self-contained HTML page of run folders: answer, figures, tables, controls, protocol.",
    "sample": "Draw samples from a checkpoint into a picture or an .npz.",
    "evaluate": "FID (or FD by another extractor), IS, precision and recall of samples, with intervals.",
    "train": "Train a class-conditional transformer with noise-condition dropout.",
    "finetune": "Teach a checkpoint its noise-blind branch, which noise awareness guidance needs.",
    "train-estimator": "Train the network that reads the noise level, for a checkpoint's schedule.",
    "info": "Say what a checkpoint is, how it was recognised and what it can do.",
}


class LazyGroup(click.Group):
    """Knows its commands' names and first lines, and imports one only when it is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["noiseshift.words"] = tuple(args)  # run folders keep the command line that made them
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"noiseshift.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The help page must not import what the commands need.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Expected errors become one line and exit code 1; NOISESHIFT_DEBUG=1 shows where they come from."""
        os.environ.setdefault("MPLBACKEND", "Agg")  # figures go to files; a window system is never needed
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except (ValueError, OSError, MemoryError, ImportError) as error:
            if os.environ.get("NOISESHIFT_DEBUG"):
                raise
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError" or os.environ.get(
                "NOISESHIFT_DEBUG"
            ):  # torch is not imported here
                raise
            click.echo("error: the accelerator's memory is full: take a smaller --batch", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted: finished batches are kept, the same command goes on from there", err=True)
            ctx.exit(130)
        finally:
            distributed.leave()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="noiseshift")
def main() -> None:
    """Measure, explain and correct the noise shift of diffusion and flow models.

    \b
    noiseshift measure                                   the bundled model, within a minute
    noiseshift measure model.pt --family sit --sampler heun:25
    noiseshift approx                                    Statement 1 against measured shifts
    noiseshift correct --sampler em:20                   noise awareness guidance against none
    noiseshift report runs/fashion-sit-em-20               the run as one page
    noiseshift info model.pt --family dit

    Scales of guidance count from 0 = unguided. Set NOISESHIFT_DEBUG=1 to see tracebacks.
    """


if __name__ == "__main__":
    sys.exit(main())
