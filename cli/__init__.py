"""The `noiseshift` command; each command lives in a file of its own and is imported only when it runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from noiseshift.cli import failures, parse, streams

from noiseshift import distributed

COMMANDS = {
    "measure": "Measure the noise shift of a checkpoint: the main job.",
    "audit": "A scheduler's noise levels, without a network: conditioning, held and reached, with remedies.",
    "approx": "Test the paper's first-order approximation, Statement 1, on a checkpoint.",
    "correct": "What noise awareness guidance and its alternatives do to the shift, to FID and to the cost.",
    "compare": "Samplers, step counts, guidance and checkpoints in one table and figures for a paper.",
    "report": "One self-contained HTML page of run folders: answer, figures, tables, controls, protocol.",
    "sample": "Draw samples from a checkpoint into a picture or an .npz.",
    "evaluate": "FID (or FD by another extractor), IS, precision and recall of samples, with intervals.",
    "train": "Train a class-conditional transformer with noise-condition dropout.",
    "finetune": "Teach a checkpoint its noise-unconditional branch, which noise awareness guidance needs.",
    "train-estimator": "Train the network that reads the noise level, for a checkpoint's schedule.",
    "info": "Say what a checkpoint is, how it was recognised and what it can do.",
}


class LazyGroup(click.Group):
    """Knows its commands' names and first lines, and imports one only when it is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        parse.usable(args)
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
        """Run the command; whatever it raises is one line and an exit code."""
        os.environ["MPLBACKEND"] = "Agg"  # figures go to files; a window system or a notebook is never needed

        def action() -> None:
            os.getcwd()  # where it was deleted, importing torch ends the process
            super(LazyGroup, self).invoke(ctx)
            sys.stdout.flush()  # a full disk behind stdout is an error here, not when Python leaves

        try:
            ctx.exit(failures.guard(action, ctx.meta["noiseshift.words"]))
        finally:
            distributed.leave()

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **rest: Any,
    ) -> Any:
        """The whole program: any terminal, any signal, any usage."""
        with streams.guarded(), failures.stoppable():
            try:
                code = super().main(args, prog_name, standalone_mode=False, **rest)
            except click.ClickException as error:
                code = failures.usage(error)
            except click.Abort:
                code = failures.stopped()
            except OSError as error:  # the help or the version, on a full disk
                click.echo(f"error: {failures.in_one_line(error)}", err=True)
                code = 1
        return sys.exit(code) if standalone_mode else code


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="noiseshift")
def main() -> None:
    """Measure, explain, correct and compare the noise shift of diffusion and flow models.

    \b
    noiseshift measure                                   the bundled model, within a minute
    noiseshift measure model.pt --family sit --sampler heun:25
    noiseshift approx                                    Statement 1 against measured shifts
    noiseshift correct --sampler em:20                   noise awareness guidance against none
    noiseshift report runs/em                            the run as one page
    noiseshift info model.pt --family dit

    Scales of guidance count from 0 = unguided. Set NOISESHIFT_DEBUG=1 to see tracebacks.
    """


if __name__ == "__main__":
    sys.exit(main())
