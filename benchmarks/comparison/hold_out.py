"""Hold a seventh of the training photos out of training, to choose settings on: what the search's sweeps read.

    python benchmarks/comparison/hold_out.py DATA/fashion OUT    # prints the two changes that the sweep takes

The 1/32 that has labels stays what it is, so teachers are the comparison's own. Held out are the lines i of train.txt,
from 0, with i % 7 = 3 and i % 32 > 0; val.txt is not read.
"""

import sys
from pathlib import Path

RATIO = 32


def main(root: str, out: str) -> None:
    """Write OUT/labeled_1-32.txt, unlabeled_1-32.txt and held_out.txt; paths in them stay relative to ROOT."""
    lines = [line for line in Path(root, "train.txt").read_text().splitlines() if line.strip()]
    labeled = lines[::RATIO]
    held_out = [line for i, line in enumerate(lines) if i % 7 == 3 and i % RATIO]
    taken = {*labeled, *held_out}
    rest = [line for line in lines if line not in taken]
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, some in {f"labeled_1-{RATIO}": labeled, f"unlabeled_1-{RATIO}": rest, "held_out": held_out}.items():
        Path(out, f"{name}.txt").write_text("".join(f"{line}\n" for line in some))
        print(f"{Path(out, name)}.txt: {len(some)} photos")
    folder = Path(out).resolve()  # other paths are looked for below data.root, and lists that are not there are derived
    print(f"data.val_list={folder}/held_out.txt 'data.partition_lists={folder}/{{part}}_1-{{ratio}}.txt'")


if __name__ == "__main__":
    main(*sys.argv[1:])
