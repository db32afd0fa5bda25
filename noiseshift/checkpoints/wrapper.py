"""A wrapper to be filled in: the few lines of Python between a file that is not built here and a measurement of it.

What the file does not say is looked for in the code beside it, which is parsed and not run; see `source`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from noiseshift.checkpoints.foreign import NoDenoiser
from noiseshift.checkpoints.inspection import Contents
from noiseshift.checkpoints.libraries import SIZE, Made, body_of, imports_of, made_of
from noiseshift.checkpoints.source import Beside, beside
from noiseshift.checkpoints.source.conditioning import LEAST, Handed, Line
from noiseshift.checkpoints.source.networks import Near, Network
from noiseshift.checkpoints.source.settings import with_settings
from noiseshift.checkpoints.source.stochastic import Stochastic
from noiseshift.checkpoints.source.training import Training
from noiseshift.diffusion.schedules import KINDS
from noiseshift.writing import replaced_file

FILL = "# fill in"
"""What marks a line that only a person can complete."""

WIDTH = 112
"""Characters of a line of the card, without its indent and its comment."""

RAW = "[0, 1]", "pixels as ToTensor makes them, unless changed after"
GRAPHS = {"edge_index", "edge_attr", "adj", "adjacency", "edges", "batch_index"}
"""Arguments of networks of graphs."""

SPREAD = "marginal_prob_std"
"""The argument that score networks of Song's tutorial are made with: the standard deviation at a time."""
OTHERS = re.compile(r"VAE|[Aa]uto_?[Ee]ncoder|Discriminator|Generator|Classifier|Critic|Encoder$")
"""Names of classes of something else."""

NOTHING = Training(None, False, False, None, None, None, None)
"""Of a file without code beside it."""


def write_wrapper(path: str | Path, contents: Contents) -> Path:
    """Write the wrapper of a file, as far as the file and the code beside it tell; returns its path.

    Args:
        path: A new .py file whose name can be imported.
        contents: What the checkpoint file says.

    Raises:
        ValueError: The path is no name of a module, or there is something already, be it a link to nothing.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path} is no name of a module: give one such as mine.py")
    if path.exists():
        raise ValueError(f"{path} is there already: name another place, or move it away")
    with replaced_file(path, lambda there: False) as fresh:
        fresh.write_text(wrapper(path.stem, contents), encoding="utf-8")
    return path


def wrapper(name: str, contents: Contents, code: Beside | None = None) -> str:
    """The wrapper's text.

    Args:
        name: Of the module, for its docstring.
        contents: What the checkpoint file says.
        code: What the code beside it says; None looks for it there.

    Raises:
        NoDenoiser: Its class is of something else.
    """
    library = made_of(contents.tensors)
    if library is not None:
        return _of_library(name, contents, library)
    code = code or beside(contents.path, contents.names, contents.prefix)
    if code is not None and code.network is not None:
        _refuse_other_class(contents.path, code.network)
    network, training = (code.network, code.training) if code else (None, NOTHING)
    training = with_settings(training, contents.settings)
    card = "\n".join(f"        {line}" for line in _packed(_card(contents, network, training)))
    imports = "\n".join(_imports(network, code.near if code else None))
    body = "\n".join(f"    {line}" for line in _body(contents, network, training))
    return _text(name, contents, imports, body, card)


def _of_library(name: str, contents: Contents, made: Made) -> str:
    """The wrapper of a network whose class and arguments are known."""
    training = with_settings(NOTHING, contents.settings)
    usual = _card(replace(contents, tensors={}), None, training)
    known = [
        line
        for line in usual
        if not line.startswith(('"shape"', '# "signature"')) and not (made.card and _is_said(line))
    ]
    classes = f'"classes": {made.classes},' if made.classes else ""
    lines = _packed([f'"shape": [{made.channels}, {SIZE}, {SIZE}],', *known, *made.card, classes])
    imports = "\n".join([*imports_of(made), "", f"{SIZE} = 32  {FILL}: pixels a side of its training"])
    body = "\n".join(f"    {line}" for line in body_of(made))
    return _text(name, contents, imports, body, "\n".join(f"        {line}" for line in lines))


def _is_said(line: str) -> bool:
    return line.startswith(('"schedule"', '"prediction"', '"time"'))


def _text(name: str, contents: Contents, imports: str, body: str, card: str) -> str:
    return f'''"""For `noiseshift info {name}:model --data DATA`, which checks it, then `noiseshift measure` with the same words."""

{imports}

FILE = {json.dumps(str(contents.path), ensure_ascii=False)}


def model():
{body}
{card}
    }}
'''


def _refuse_other_class(path: Path, network: Network) -> None:
    """Raise NoDenoiser where the class that a file's tensors are of is none of a denoiser's, by its name and its arguments."""
    if not network.timed and OTHERS.search(network.name):
        raise NoDenoiser(
            f"{path.name}: its tensors are of {network.name} in {network.source.path.as_posix()}, which takes no time: no denoiser "
            "by its name; where it is one, give module:function"
        )


def _body(contents: Contents, network: Network | None, training: Training) -> Iterator[str]:
    """The lines that make the network, up to where its card begins."""
    made = _made(network, training)
    others = () if network is None else network.others
    labelled = network is not None and network.labelled and contents.rows is not None
    untimed = network is not None and not network.timed and (labelled or not network.labelled)
    filled = f"ns.adapters.weights(FILE, {made})"
    if FILL in made:
        yield f"network = {made}"
        filled = "ns.adapters.weights(FILE, network)"
    if _is_edm(contents, training) and not others and not untimed:
        yield from _preconditioned(filled, network, training.edm or {})
        return
    if not others and not untimed:
        yield f"return {filled}, {{"
        return
    yield f"network = {filled}"
    if untimed:
        yield from _untimed(contents, labelled)
        return
    first = ", ".join((network and network.signature) or ("x", "t"))
    more = ", ".join(f"{other}=..." for other in others)
    yield f"return lambda x, t: network({first}, {more}), {{  {FILL}: {', '.join(others)}"


def _is_edm(contents: Contents, training: Training) -> bool:
    """Whether the code preconditions as EDM does, and neither file nor code shows another path."""
    table = contents.schedule or training.betas or contents.steps
    return training.edm is not None and not table and training.to_data is None


def _preconditioned(filled: str, network: Network | None, known: dict[str, float]) -> Iterator[str]:
    """The lines around a network that was trained under EDM's preconditioning, unless it is a denoiser already."""
    if network is not None and network.denoises:
        yield f"return {filled}, {{"
        return
    yield f"network = {filled}"
    data = known.get("sigma_data")
    mark = "" if data else f"  {FILL}: sigma_data"
    yield f"return ns.adapters.EdmDenoiser(network, sigma_data={data or 0.5:g}), {{{mark}"


def _untimed(contents: Contents, labelled: bool) -> Iterator[str]:
    """The call of a network that is handed no time, or has it among its features."""
    inputs, outputs = contents.inputs or 0, contents.outputs or 0
    if labelled:
        yield "return lambda x, t, label: network(x, label), {  # it takes no time"
    elif inputs > outputs:
        kind = "features" if contents.axes == 0 else "channels"
        yield f"return lambda x, t: network(...), {{  {FILL}: its {inputs} {kind}, {outputs} of them the state's"
    elif contents.axes == 0 and inputs < outputs:
        doubt = f"it takes {inputs} features and answers with {outputs}: a denoiser answers with a state"
        yield f"return lambda x, t: network(x), {{  {FILL}: {doubt}"
    else:
        yield "return lambda x, t: network(x), {  # it takes no time"


def _imports(network: Network | None, near: Near | None) -> Iterator[str]:
    if network is None:
        hint = "where the network's class is"
        if near is not None:
            # Of a name that lies in a file, only what is known to be a word goes into code.
            lacking = ", ".join(name for name in near.lacking if name.isidentifier()) or "further parts"
            where = json.dumps(near.path.as_posix(), ensure_ascii=False)
            hint += f"; {near.name} of {where} is nearest, without {lacking[:60]}: an earlier version may have it"
        yield from ("import noiseshift as ns", f"from my_network import Network  {FILL}: {hint}")
        return
    if not network.importable:
        yield from ("import noiseshift as ns", "")
        path = json.dumps(network.source.path.as_posix(), ensure_ascii=False)
        # Importing the file would run more than the class, or need more than is installed.
        yield f'{network.name} = ns.adapters.defined_in({path}, "{network.name}")'
        return
    module = network.source.module or ""
    if network.root:
        yield from ("import sys", "", "import noiseshift as ns", "", f"sys.path.insert(0, {json.dumps(network.root)})")
        yield f"from {module.removeprefix(network.root + '.')} import {network.name}"
    else:
        yield from (f"from {module} import {network.name}", "", "import noiseshift as ns")


def _made(network: Network | None, training: Training) -> str:
    if network is None:
        return f"Network()  {FILL}: what it was made with"
    if not network.complete and training.sde is not None and network.parameters.startswith(SPREAD):
        return f"{network.name}({SPREAD}=lambda t: {_spread(training.sde)})"
    if network.complete:
        return f"{network.name}({network.arguments})"
    return f"{network.name}({network.arguments})  {FILL}: it takes {_one_line(network.parameters)}"


def _spread(sde: Stochastic) -> str:
    """The standard deviation at times t, as code."""
    numbers = ", ".join(f"{value:g}" for name, value in sde.words.items() if name != "kind")
    kinds = {name: cls.__name__ for name, cls in KINDS.items()}
    return f"ns.{kinds[sde.words['kind']]}({numbers})(t).sigma"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _card(contents: Contents, network: Network | None, training: Training) -> Iterator[str]:
    """The card's lines: what the file and the code tell, and usual values where they do not."""
    yield f'"shape": {_shape(contents, network, training)}'
    if contents.axes != 0 and training.range is None:
        usual, doubt = RAW if training.raw else ("[-1, 1]", "what black and white were in its training")
        yield f'"range": {usual},  {FILL}: {doubt}'
    elif contents.axes != 0 and training.range not in (None, (-1.0, 1.0)):
        yield f'"range": [{training.range[0]:g}, {training.range[1]:g}],' if training.range else ""
    if _is_edm(contents, training):
        ends = {name: (training.edm or {}).get(name) for name in ("sigma_min", "sigma_max")}
        known = {"kind": "variance-exploding", **{name: value for name, value in ends.items() if value}}
        yield from (f'"schedule": {_words(known)},', '"prediction": "x0",')
        yield from _labelled(contents, network, training)
        yield '"time": {"conditioning": "sigma"},'
        return
    if _unknown(contents, training):
        kinds = 'or {"kind": "discrete", "steps": 1000}, {"kind": "variance-exploding"}, …; epsilon, x0, v_prediction or score'
        learned = "epsilon" if training.epsilon else "velocity"
        yield f'"schedule": {{"kind": "linear"}}, "prediction": "{learned}",  {FILL}: {kinds}'
    else:
        yield f'"schedule": {_schedule(contents, training)}'
        yield f'"prediction": {_prediction(contents, training)}'
    yield from _labelled(contents, network, training)
    yield f'"time": {_time(contents, network, training)}'


def _packed(parts: Iterable[str]) -> Iterator[str]:
    """The card's parts, as many a line as there is room for; one with a comment ends its line, and one to fill in has its own."""
    line = ""
    for part in filter(None, parts):
        joined = f"{line} {part}" if line else part
        if line and (FILL in part or len(joined.partition("  #")[0]) > WIDTH):
            yield line
            joined = part
        line = joined
        if "  #" in part or part.startswith("#"):
            yield line
            line = ""
    if line:
        yield line


def _labelled(contents: Contents, network: Network | None, training: Training) -> Iterator[str]:
    yield from _classes(contents, network, training)
    yield from _called(network)


def _shape(contents: Contents, network: Network | None, training: Training) -> str:
    channels = contents.channels
    shown = training.shape
    if contents.axes == 0 and network is not None and GRAPHS & set(network.others):
        return f"[{channels}],  {FILL}: of one state, such as [nodes, features] of one graph"
    if contents.axes == 0:
        return f"[{channels}],{'' if network else f'  {FILL}: of one state'}"
    if contents.size:
        return f"[{channels}, {contents.size}, {contents.size}],"
    if contents.axes == 2 and shown is not None and shown[0] == channels:
        return f"[{channels}, {shown[1]}, {shown[1]}],"
    sides = ", ".join(["28"] * (contents.axes or 2))
    return f"[{channels}, {sides}],  {FILL}: its size"


def _unknown(contents: Contents, training: Training) -> bool:
    """Whether nothing shows which path between data and noise it was trained on."""
    tables = contents.schedule or training.betas or contents.steps
    return not tables and training.to_data is None and training.sde is None


def _schedule(contents: Contents, training: Training) -> str:
    table = contents.schedule
    if table is not None:
        # Of a name that lies in a file, only what is known to be a word goes into code.
        return f"ns.adapters.schedule(FILE),  # {len(table.alphas_cumprod):,} steps, by its {table.name.rpartition('.')[2]}"
    if training.betas:
        known = {"kind": "discrete", **training.betas} | ({"steps": contents.steps} if contents.steps else {})
        mark = "" if "steps" in known else f"  {FILL}: steps"
        mark = f"  {FILL}: the code has {training.doubt} too" if training.doubt else mark
        return f"{_words(known)},{mark}"
    if contents.steps:
        return f'{{"kind": "discrete", "steps": {contents.steps}}},  {FILL}: its betas, where not DDPM\'s'
    if training.to_data is not None:
        return '{"kind": "linear"},'
    if training.sde is not None:
        doubt = f"  {FILL}: the code has {training.sde.doubt} too" if training.sde.doubt else ""
        return f"{_words(dict(training.sde.words))},{doubt}"
    return (
        f'{{"kind": "linear"}},  {FILL}: or {{"kind": "discrete", "steps": 1000}}, {{"kind": "variance-exploding"}}, …'
    )


def _words(values: dict[str, Any]) -> str:
    return json.dumps(values)


def _prediction(contents: Contents, training: Training) -> str:
    if training.learned is not None:
        return f'"{training.learned}",'
    if training.epsilon and (training.betas or contents.schedule or contents.steps):
        return '"epsilon",'
    discrete = bool(training.betas or contents.schedule or contents.steps)
    if training.to_data is not None and not discrete:
        return '"velocity",'
    if training.sde is not None and not discrete:
        return (
            '"score",'
            if training.score
            else f'"score",  {FILL}: or epsilon, where the answer is divided by the spread for a score'
        )
    return f'"{"epsilon" if discrete else "velocity"}",  {FILL}: epsilon, x0, v_prediction, velocity or score'


def _time(contents: Contents, network: Network | None, training: Training) -> str:
    """What it takes for the time; of features, to which it is joined, in a column."""
    words = _counts(contents, training)
    if (
        network is not None
        and not network.timed
        and (contents.inputs or 0) > (contents.outputs or 0)
        and FILL not in words
    ):
        return f"{words.partition('  #')[0]}  {FILL}: what the training joins to the state for it"
    if network is None or not network.column or contents.axes != 0 or contents.steps or words.startswith("{}"):
        return words
    return words.replace("}", ', "column": True}', 1)


def _counts(contents: Contents, training: Training) -> str:
    table = contents.schedule
    betas = training.betas
    if contents.steps:
        counted = "" if table or betas else f', "scale": {contents.steps}, "offset": -1'
        return f'{{"integer": True{counted}}},  # "column": True where its shape is (B, 1)'
    if table is not None or betas:
        steps = len(table.alphas_cumprod) if table is not None else (betas or {}).get("steps", 1000)
        return _stepped(training, steps)
    if training.to_data is not None or training.sde is not None:
        return _continuous("noise" if training.to_data else "data", training)
    return f'{{"zero": "noise"}},  {FILL}: where its t = 0 is; {{"scale": 1000, "offset": -1}}: steps; {{"conditioning": "sigma"}}'


def _continuous(zero: str, training: Training) -> str:
    """The line of a time from 0 to 1, and of what it is multiplied by before the network is called."""
    calls = [(call, call.line(training.count or 1000)) for call in training.handed]
    call, line = next(((call, line) for call, line in calls if line and abs(line[0]) >= LEAST), (None, None))
    if call is None or line is None:  # what is divided is a step of a sampler, which becomes the time
        return f'{{"zero": "{zero}"}},{_unclear(calls)}'
    whole = ', "integer": True' if re.search(r"\.(long|int)\(", call.text) else ""
    start = f', "offset": {line[1]:.10g}' if line[1] else ""
    return f'{{"zero": "{zero}", "scale": {line[0]:.10g}{start}{whole}}},'


def _stepped(training: Training, steps: int) -> str:
    """The line of a step, which may be computed with before the network is called."""
    calls = [(call, call.line(_counted(steps))) for call in training.handed]
    line = next((line for _, line in calls if line and 0 < abs(line[0]) < LEAST), None)
    if line is None:
        doubt = _unclear(calls) or f"  # steps 0 … {steps - 1}; {{}} for t from 0 to 1"
        return f'{{"scale": {steps}, "offset": -1}},{doubt}'
    slope, start = line
    by = round(1 / slope) if slope > 0 else 0
    plain = by > 0 and start == 0 and abs(1 / by - slope) < 1e-12
    shown = f"k / {by}" if plain else f"{slope:.6g} k + {start:.6g}".replace("+ -", "- ")
    return f'{{"scale": {steps * slope:.10g}, "offset": {start - slope:.10g}}},  # step k as {shown}'


def _unclear(calls: Sequence[tuple[Handed, Line | None]]) -> str:
    """What a person is to look at where none of the calls is understood, "" where there is none."""
    unknown = [call for call, line in calls if line is None or not line[0]]
    return f"  {FILL}: the code calls it with {_one_line(unknown[0].text)[:60]}" if unknown else ""


def _counted(rows: int) -> int:
    """Steps of a table of so many rows: one that begins with a row that is not a step has a row more."""
    return rows - 1 if rows % 10 == 1 else rows


def _classes(contents: Contents, network: Network | None, training: Training) -> Iterator[str]:
    rows = contents.rows
    if not rows:
        return
    if training.null == 0:
        yield f'"classes": {rows - 1}, "null_class": 0,  # its classes start at 1'
    elif training.null == rows - 1:
        yield f'"classes": {rows - 1}, "null_class": {rows - 1},'
    elif network is not None and network.no_label:
        yield f'"classes": {rows}, "null_class": "none",'
    elif rows in (11, 101, 1001):  # one more than data sets have
        yield f'"classes": {rows - 1}, "null_class": {rows - 1},'
    else:
        last = f'"classes": {rows - 1}, "null_class": {rows - 1}'
        yield f'"classes": {rows},  {FILL}: {last} where the last row is a null class'


def _called(network: Network | None) -> Iterator[str]:
    if network is None:
        yield f'# "signature": "(t, x)", "output": "first",  {FILL}: where it is called so, or answers with a tuple'
        return
    if network.signature and not network.others:
        yield f'"signature": "({", ".join(network.signature)})",'
    if network.several:
        yield '"output": "first",'
