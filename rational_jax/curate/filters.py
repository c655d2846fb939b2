"""Which samples are kept. Each filter has a name and a reason for every sample that it rejects; none changes a sample.

The filters run in the order of `FILTERS`, each on what those before it left. A recipe may name a part of them. What
is rejected is kept aside with the reason, so leaving a filter out brings its samples back.
"""

from collections.abc import Sequence

from rational_jax.curate.candidates import Candidate, Filtered, Rules
from rational_jax.curate.set_filters import DIVERSITY, SET_FILTERS, SURPLUS
from rational_jax.curate.text_filters import TEXT_FILTERS
from rational_jax.errors import UserError

# Those that look at one prompt's samples come first: they cost little, and what they reject need not be compared.
ORDER = (*TEXT_FILTERS, *SET_FILTERS)
# How many may stay is for the settings alone to say.
ALWAYS = (SURPLUS, DIVERSITY)
FILTERS = tuple(name for name in ORDER if name not in ALWAYS)
"""The names that a recipe's `filters` and `curate.filters` may list, in the order in which they run."""


def apply_filters(candidates: Sequence[Candidate], rules: Rules, names: Sequence[str] | None = None) -> Filtered:
    """Runs the filters called `names` (None: all), and of what passes keeps the best `rules.keep` of each prompt.

    A prompt's candidates lie side by side. They are read several times and never held together, so they may be more
    than fit into memory. A pure function of its arguments. Raises UserError for a filter that does not exist.
    """
    check_filter_names(names)
    filtered = Filtered(candidates)
    alone = {name: filter_ for name, filter_ in TEXT_FILTERS.items() if names is None or name in names}
    for group in filtered.stream():
        for name, filter_ in alone.items():
            details = filter_([candidate for _, candidate in group], rules)
            for (number, _), detail in zip(group, details, strict=True):
                if detail:
                    filtered.reject(number, name, detail)
            group = [item for item in group if filtered.is_kept(item[0])]
            if not group:
                break
    for name, filter_ in SET_FILTERS.items():
        if names is None or name in names or name in ALWAYS:
            for number, detail in filter_(filtered.stream, rules):
                filtered.reject(number, name, detail)
    return filtered


def check_filter_names(names: Sequence[str] | None) -> None:
    """Raises UserError for a filter that does not exist."""
    unknown = [name for name in names or () if name not in FILTERS]
    if unknown:
        raise UserError(f"there is no filter {unknown[0]!r}; choose from {', '.join(FILTERS)}")
