"""The tables of docs/slurm.md, from the tables of options and the fields; run as a program it writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dure.cli.slurm.commands import TABLES
from dure.cli.slurm.fields import SACCT_FIELDS, SINFO_FIELDS, SQUEUE_FIELDS, SSHARE_FIELDS
from dure.cli.slurm.getopt import Option
from dure.cli.slurm.words import REASONS
from dure.model.file_docs import with_part

_END = "<!-- end of table -->"


def tables() -> dict[str, str]:
    """Name of each marker and the Markdown that stands under it."""
    honoured = {name: [o for o in table if not o.is_refused] for name, (_, table) in TABLES.items()}
    refused = [option for option in TABLES["sbatch"][1] if option.is_refused]
    found = {f"options of {name}": _options("does", options) for name, options in honoured.items() if name != "srun"}
    found["options that sbatch and srun refuse"] = _options("why not", refused)
    found["columns"] = "\n".join(
        [
            "| command | columns |", "|---|---|",
            f"| squeue | {' '.join(f'`%{letter}`' for letter in SQUEUE_FIELDS)} |",
            f"| sinfo | {' '.join(f'`%{letter}`' for letter in SINFO_FIELDS)} |",
            f"| sacct | {' '.join(f'`{name}`' for name in SACCT_FIELDS)} |",
            f"| sshare | {' '.join(f'`{name}`' for name in SSHARE_FIELDS)} |",
        ]
    )  # fmt: skip
    found["reasons"] = "\n".join(
        ["| Dure | Slurm |", "|---|---|", *(f"| {reason} | {word} |" for reason, word in REASONS.items())]
    )
    return found


def _options(head: str, options: Sequence[Option]) -> str:
    rows = [f"| `{option.shown}` | {option.meaning.replace('|', chr(92) + '|')} |" for option in options]
    return "\n".join([f"| option | {head} |", "|---|---|", *rows])


def with_tables(page: str) -> str:
    """The page with the tables between its markers replaced.

    Raises
    ------
    InputError
        A marker is missing.
    """
    for name, table in tables().items():
        page = with_part(page, f"<!-- {name} -->", _END, f"{table}\n")
    return page


if __name__ == "__main__":
    path = Path("docs") / "slurm.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
