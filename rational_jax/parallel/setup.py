"""What must be set before JAX starts: devices and the compilation cache."""

import os
from pathlib import Path

# Above this, the rows of a small batch no longer divide over the devices, and each gets too little to do.
_MOST_CPU_DEVICES = 4


def configure_runtime() -> None:
    """Prepares this process for JAX. Call it before the first computation; later calls change nothing.

    The cores of a CPU become several devices, which share a batch better than threads share its small matrix products.
    Compiled programs are kept under `$RATIONAL_CACHE` (default `~/.cache/rational_jax`), so that a second run, or the
    resumed one, does not compile again. JAX's own settings in the environment take precedence.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its worker threads and JAX's compete for the same cores
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is missing is as it should be
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        root = Path(os.environ.get("RATIONAL_CACHE", Path.home() / ".cache" / "rational_jax"))
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    counted = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not counted and jax.config.jax_num_cpu_devices < 0:
        cores = min(os.cpu_count() or 1, _MOST_CPU_DEVICES)
        jax.config.update("jax_num_cpu_devices", 1 << (cores.bit_length() - 1))
