"""`noiseshift info`: what a checkpoint is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from noiseshift.analysis.names import plain
from noiseshift.cli.inputs import read_images
from noiseshift.cli.options import Source, checkpoint_options, range_option, strict_option

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.checkpoints.inspection import Contents
    from noiseshift.shift.preflight import Preflight

# What a branch knows: (noise level, condition).
BRANCHES = {
    (True, True): "full",
    (False, True): "noise-unconditional",
    (True, False): "unconditional",
    (False, False): "noise- and class-unconditional",
}


@click.command()
@checkpoint_options
@click.option(
    "--data",
    type=click.Path(),
    help="Also check it on these images (`bundled`: the Fashion-MNIST ones): does it denoise them?",
)
@range_option
@strict_option
@click.option("--write-card", is_flag=True, help="Also write the card beside the file, to be corrected by hand.")
@click.option(
    "--write-wrapper",
    "module",
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="Of a file that is not built here: also write the Python that builds it, to be filled in.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(
    source: Source,
    data: str | None,
    limits: Any,
    strict: bool,
    write_card: bool,
    module: Path | None,
    as_json: bool,
) -> None:
    """Say what CHECKPOINT is, how it was recognised and what it lacks: family, schedule, what it
    predicts, which branches it has, where it came from. Its network is called, to see what it is handed for the time.

    \b
    noiseshift info
    noiseshift info fashion-ddpm --data bundled
    noiseshift info DiT-XL-2-256x256.pt --family dit --write-card
    noiseshift info strangers.pt --write-wrapper mine.py
    """
    from noiseshift.analysis.checks import print_failures
    from noiseshift.analysis.terminal import screen

    from noiseshift.checkpoints import CheckpointError
    from noiseshift.checkpoints.foreign import NoDenoiser
    from noiseshift.studies.checking import refuse_failures

    try:
        loaded = source.load()
    except NoDenoiser:
        raise
    except CheckpointError as error:
        contents = _contents(source)
        if contents is None:
            raise
        _print_contents(contents, str(error), module, as_json)
        return
    if module is not None:
        raise ValueError(f"{loaded.name} is built as it is: measure it, no wrapper is needed")
    checks = _checked(loaded, data, limits)
    found: dict[str, Any] = {
        "name": loaded.name,
        "recognised": loaded.recognised,
        "sha256": loaded.hash,
        "states": list(loaded.shape),
        "pictures": _pictures(loaded),
        "classes": loaded.classes,
        "parameters": _parameters(loaded),
        "branches": sorted(BRANCHES[branch[:2]] for branch in loaded.model.branches),
        "estimator": None if loaded.estimator is None else str(loaded.estimator.name),
        "missing": _missing(loaded) or "nothing",
        "checks": str(checks).splitlines(),
        "card": asdict(loaded.card),
    }
    if write_card:
        click.echo(f"written: {plain(_write_card(source.checkpoint, loaded))}", err=True)
    if as_json:
        click.echo(json.dumps({"preflight": checks.as_dict()} | found, default=str))
    else:
        print_failures(screen(), checks)
        _print(found)
    refuse_failures(checks, strict)


def _print(found: dict[str, Any]) -> None:
    """A line a fact; of the card what is not said already."""
    card_fields = found.pop("card")
    card_fields["schedule"] = {name: _shortened(value) for name, value in card_fields["schedule"].items()}
    stated = {key: value for key, value in card_fields.items() if value not in (None, (), {}) and key not in found}
    for key, value in {**found, **stated}.items():
        click.echo(f"{key:12s} " + f"\n{'':12s} ".join(_lines(key, value)))


def _contents(source: Source) -> Contents | None:
    """What a file that could not be built says by itself; None where it cannot even be read."""
    from noiseshift.checkpoints import CheckpointError
    from noiseshift.checkpoints.inspection import contents_of

    path = Path(source.checkpoint or "")
    if not path.is_file():
        return None
    try:
        return contents_of(path)
    except CheckpointError:
        return None


def _known(path: Path) -> bool:
    """Whether a format knows the network, and only lacks something that is to be said."""
    from noiseshift.checkpoints import CheckpointError
    from noiseshift.checkpoints.files import read_content
    from noiseshift.checkpoints.formats import recognised

    try:
        recognised(read_content(path))
    except CheckpointError:
        return False
    return True


def _print_contents(contents: Contents, reason: str, module: Path | None, as_json: bool) -> None:
    """What a file says by itself, why it is not built, and what to do."""
    from noiseshift.checkpoints.wrapper import FILL, write_wrapper

    found = {"name": contents.path.stem, "not built": reason, **contents.facts()}
    if module is None:
        found["next"] = f"noiseshift info {shlex.quote(str(contents.path))} --write-wrapper mine.py"
        if _known(contents.path):
            found["next"] = f'what stands after "not built"; or, where its network is another: {found["next"]}'
    else:
        written = write_wrapper(module, contents)
        found["next"] = (
            f"complete the lines of {written} that are marked {FILL!r}, then noiseshift info {written.stem}:model"
        )
    if as_json:
        click.echo(json.dumps({**found, "built": False, "prefix": contents.prefix}))
        return
    for key, value in found.items():
        click.echo(f"{key:12s} {plain(value)}")


def _checked(loaded: Checkpoint, data: str | None, limits: Any) -> Preflight:
    """The checks before a measurement, without data those that need none."""
    from noiseshift.data import for_checkpoint
    from noiseshift.shift.preflight import preflight

    if data in (None, "none"):
        return preflight(loaded, None)
    images = read_images(None if data == "bundled" else data, limits)
    return preflight(loaded, for_checkpoint(images, loaded.classes, loaded.card.class_names))


def _lines(key: str, value: Any) -> list[str]:
    if key == "provenance":
        return [f"{plain(name)}: {_words(part)}" for name, part in value.items()]
    return [*map(plain, value)] if key in ("missing", "checks") and isinstance(value, list) else [_words(value)]


def _words(value: Any) -> str:
    """A value for people: no brackets or quotes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)} {_words(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:,}" if isinstance(value, int) and value > 9999 else plain(value)


def _shortened(value: Any) -> Any:
    """A table by its ends: a thousand numbers are for --json."""
    return f"{len(value)} numbers, {value[0]:.6g} … {value[-1]:.6g}" if isinstance(value, list) else value


def _parameters(loaded: Any) -> int | str:
    """Of all networks that the model calls, in closures too."""
    from noiseshift.checkpoints.custom_code import networks_in

    networks = networks_in(loaded.model)
    return sum(p.numel() for network in networks for p in network.parameters()) if networks else "unknown"


def _missing(loaded: Any) -> list[str]:
    """What this checkpoint lacks, each with what it would be good for and where to get it."""
    from noiseshift.diffusion.models import NOISE_UNCONDITIONAL, UNCONDITIONAL
    from noiseshift.networks.transformer import Transformer

    finetune = ": noiseshift finetune" if isinstance(getattr(loaded.model, "network", None), Transformer) else ""
    lacks = {
        f"noise-unconditional branch, for NAG{finetune}": NOISE_UNCONDITIONAL not in loaded.model.branches,
        "unconditional branch, for CFG": loaded.classes > 0 and UNCONDITIONAL not in loaded.model.branches,
        "network estimator: noiseshift train-estimator": loaded.estimator is None,
        "autoencoder, for pictures: --vae": loaded.latent and loaded.autoencoder is None,
        "matching held-out data: --data": loaded.card.data is None,
    }
    return [what for what, missing in lacks.items() if missing]


def _pictures(loaded: Any) -> str:
    """What the states are decoded to."""
    if not loaded.latent:
        return "the states"
    coder = loaded.autoencoder
    if coder is None:
        return "unknown: the autoencoder is not there, give --vae"
    return f"{coder.factor * loaded.shape[1]}×{coder.factor * loaded.shape[2]}"


def _write_card(checkpoint: str | None, loaded: Any) -> Path:
    """The card beside the checkpoint's file. Raises ValueError where it would not be read, or is there already."""
    from noiseshift.checkpoints.saving import write_card

    path = Path(checkpoint or "")
    if not path.is_file():
        raise ValueError(
            "a card is written beside a checkpoint's file: name one (folders and bundled models have theirs)"
        )
    if path.with_suffix(".yaml").exists():
        raise ValueError(f"{path.with_suffix('.yaml')} is there already: correct it by hand, or move it away")
    return write_card(path, loaded.card)
