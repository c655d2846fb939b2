"""What must be set before JAX starts: the platform's flags and the compilation cache."""

import os
from pathlib import Path


def configure_runtime() -> None:
    """Prepares this process for JAX. Call it before the first computation; later calls change nothing.

    Compiled programs are kept under `$RATIONAL_CACHE` (default `~/.cache/rational_jax`), so that a second run, or the
    resumed one, does not compile again. `$JAX_COMPILATION_CACHE_DIR` takes precedence, as everywhere in JAX.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its worker threads and JAX's compete for the same cores
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        root = Path(os.environ.get("RATIONAL_CACHE", Path.home() / ".cache" / "rational_jax"))
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
