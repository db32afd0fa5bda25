"""Every option that takes words, and a line of its command that gets as far as reading it."""

import click
from noiseshift.cli import COMMANDS, main

NUMBERS = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
NEEDED = {
    "evaluate": ["samples.npz"],
    "train": ["--out", "new"],
    "finetune": ["--out", "new"],
    "audit": ["diffusers/DDIMScheduler"],
    "measure": ["--samples", "4", "--sampler", "euler:2"],
    "correct": ["--samples", "4", "--sampler", "euler:2"],
}


def options():
    """Each option that takes words, with the first command that has it."""
    found = {}
    for command in ("measure", "correct", *COMMANDS):
        for param in main.get_command(click.Context(main), command).params:
            name = max(param.opts, key=len)
            if not isinstance(param.type, NUMBERS) and not getattr(param, "is_flag", False):
                found.setdefault(name, command)
    return {name: found[name] for name in sorted(found.keys() - {"--out", "--write-wrapper"})}


def line(option, command, value):
    """The words of `command` with `value` for the option."""
    needed = [] if option in NEEDED.get(command, ()) else NEEDED.get(command, [])
    if not option.startswith("-"):  # the argument itself, in place of any other
        return [command, value, *(needed if needed[:1] and needed[0].startswith("-") else [])]
    at = needed.index(option) if option in needed else len(needed)
    return [command, *needed[:at], *needed[at + 2 :], option, value]
