"""Does a text tell how to do something? A rule about its form, which knows nothing of harm.

It is asked about the reasoning of refusals. Reasoning that weighs a request names things and consequences; a manual has
steps that begin with an order, amounts, or code. So a leak in flowing prose passes, and a harmless recipe would not: a
guard model is the better judge, and where one is configured the filter `guard` asks it too.
"""

import re

LEAST_ORDERS = 3
LEAST_AMOUNTS = 3
LEAST_CODE = 60  # characters in fences

_STEP = re.compile(
    # Each part ends with its line: over many empty ones the search would begin anew from each.
    r"^[^\S\n]*(?:\d{1,2}[.)]|[-*•]|step \d{1,2}[:.]?)\s+(?:[^\w\n]*(?:first|then|next|now|finally)\W+)?\**(\w+)",
    re.I | re.M,
)
_ORDERS = frozenset(
    "access acquire add apply assemble attach boil break build burn buy call click combine compile connect "
    "contact convert cook cool copy create crush cut deliver deploy dilute disable dissolve download drain drill "
    "drop encrypt enter execute extract fill filter find follow gather get grind heat hide hold ignite inject "
    "insert install launch light load log make mix move obtain open order pack paste place plant point pour "
    "prepare press purchase put release remove repeat replace rinse run scan scrape seal search secure select "
    "send set shake shape shut soak solder spray start steal stir strip take tie transfer turn type upload use "
    "wait wash weigh wire wrap write".split()
)
_AMOUNT = re.compile(
    r"\b\d+(?:[.,]\d+)?\s?(?:%|°\s?[cf]\b|(?:mg|g|kg|ml|cl|l|litres?|liters?|grams?|ounces?|oz|cups?|tablespoons?|"
    r"teaspoons?|tbsp|tsp|mm|cm|inch(?:es)?|volts?|amps?|degrees?)\b)",
    re.I,
)
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def instructions(text: str) -> str:
    """What makes `text` look like a manual, in a few words; "" where it does not."""
    code = sum(map(len, _FENCED.findall(text))) if "```" in text else 0
    if code >= LEAST_CODE:
        return f"{code} characters of code"
    orders = sum(word.lower() in _ORDERS for word in _STEP.findall(text))
    if orders >= LEAST_ORDERS:
        return f"{orders} steps that are orders"
    amounts = len(_AMOUNT.findall(text))
    return f"{amounts} amounts" if amounts >= LEAST_AMOUNTS else ""
