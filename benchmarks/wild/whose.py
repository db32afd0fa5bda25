"""Whose the shifts of strangers' checkpoints are: `--controls` for those that pass their checks and have a significant shift.

    python benchmarks/wild/whose.py CHECKOUTS --mnist MNIST --out OUT      # after table.py, with the same words

Reads OUT/rows, keeps OUT/whose, and writes docs/data/question-strangers-whose.csv: a row a level.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from table import run_case

HERE = Path(__file__).parent
ANSWER = re.compile(r"RunAnswer\(a shift, p = ([\d.e-]+), by .*\)")


def wanted(out: Path) -> list[str]:
    """Wrappers of checkpoints that pass and are shifted."""
    rows = {path.stem: json.loads(path.read_text()) for path in (out / "rows").glob("*.json")}
    return [name for name, row in rows.items() if row["checks"] == "passed" and ANSWER.fullmatch(row["answer"])]


def shares(name: str, mnist: Path) -> pd.DataFrame:
    """One case's, in the folder of its checkout."""
    import noiseshift as ns

    one = importlib.import_module("one")
    case = next(case for case in CASES if case.wrapper == name)
    checkpoint = ns.load(f"{name}:model")
    run = ns.run(checkpoint, one.protocol_of(case, checkpoint, controls=True), one.data_of(case.data, mnist))
    assert run.controls is not None
    found = run.controls.shares.assign(checkpoint=f"{case.repository} {case.file}", sampler=case.sampler)
    found["controls"] = "passed" if all(check.passed is not False for check in run.controls.checks) else "failed"
    return found.dropna(subset="total")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    (given.out / "whose").mkdir(exist_ok=True)
    found = []
    for case in CASES:
        if case.refused or case.wrapper not in wanted(given.out):
            continue
        path = given.out / "whose" / f"{case.wrapper}.json"
        if not path.exists():
            row = run_case(case, given.checkouts, given.mnist, given.out, script="whose.py")
            if "shares" not in row:
                print(row["checks"])
                continue
            path.write_text(json.dumps(row["shares"]) + "\n")
        found.append(pd.DataFrame(json.loads(path.read_text())))
        print(found[-1].round(4).to_string(), flush=True)
    table = pd.concat(found, ignore_index=True)
    first = ["checkpoint", "sampler", "controls"]
    table = table[[*first, *(name for name in table.columns if name not in first)]]
    table.to_csv(HERE.parent.parent / "docs/data/question-strangers-whose.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    if len(sys.argv) == 4:  # as `table.run_case` calls it: wrapper, MNIST, OUT
        print(json.dumps({"shares": shares(sys.argv[1], Path(sys.argv[2])).to_dict("list")}, default=str))
    else:
        main()
