"""Where compiled kernels are kept: one folder for each state of the sources.

Numba's cache looks at a function's own file only; a change in a file that it calls into, or in the layout of the
records, would leave stale machine code behind. A digest over all sources in the folder's name makes that impossible.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def use_kernel_cache() -> None:
    """Point Numba's cache at this source's folder, unless the user has set ``NUMBA_CACHE_DIR``."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    root = Path(__file__).resolve().parents[2]
    sha = hashlib.sha256()
    for folder in ("policy", "core", "twin"):
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_bytes()
            if b"@kernel" in text or path.parent.name == "kernels":
                sha.update(path.name.encode() + text)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ["NUMBA_CACHE_DIR"] = str(base / "dure" / f"kernels-{sha.hexdigest()[:16]}")
    import numba

    numba.config.reload_config()
