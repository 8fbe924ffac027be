"""`measure_args` of several measures at once, in the two shapes that MLP-Rank's users know.

{"gamma": 0.5}                                                 of the one measure there is
{"ChannelNorm": {"p": 1}, "WeightedPageRank": {"gamma": 0.5}}  by the names of measures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruners.errors import PrunerError, did_you_mean
from pruners.registry import SCORING_MEASURES


def arguments_for(measure: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of this measure; those of other measures are no error.

    Raises:
        PrunerError: a key is no measure's name where others are, or holds no arguments.
    """
    return by_measure([measure], given)[measure][0]


def by_measure(
    measures: Sequence[str], given: Mapping[str, Any] | None
) -> dict[str, list[dict[str, Any]]]:
    """For every measure the settings that it runs with: one, or each of a list of them.

    `{"ChannelNorm": [{"p": 1}, {"p": 2}]}` are two. A measure that is not mentioned has its
    defaults.

    Raises:
        PrunerError: as `arguments_for`; or arguments without a measure's name beside several
            measures.
    """
    result: dict[str, list[dict[str, Any]]] = {measure: [{}] for measure in measures}
    if not given:
        return result
    if not _is_keyed(given):
        if len(measures) != 1:
            raise PrunerError(
                f"--measure-args {_shown(given)}: which measure takes them? expected them by name, "
                f"such as '{{\"{measures[0]}\": {_shown(given)}}}'"
            )
        return {measures[0]: [dict(given)]}
    for name, value in given.items():
        if name not in SCORING_MEASURES:
            raise PrunerError(
                f"--measure-args: {name} is no measure{did_you_mean(name, SCORING_MEASURES)}; "
                f"expected measures by name, or arguments of a single one"
            )
        settings = value if isinstance(value, list | tuple) else [value]
        if not settings or not all(isinstance(setting, Mapping) for setting in settings):
            raise PrunerError(
                f"--measure-args: {name} has {_shown(value)}; expected its arguments by name, such "
                f'as {{"p": 2}}, or a list of such'
            )
        if name in result:
            result[name] = [dict(setting) for setting in settings]
    return result


def named(given: Mapping[str, Any] | None) -> list[str]:
    """The measures that are mentioned by name."""
    return list(given) if given and _is_keyed(given) else []


def _is_keyed(given: Mapping[str, Any]) -> bool:
    """Whether keys are measures: one of them is, or every value holds arguments."""
    return any(key in SCORING_MEASURES for key in given) or all(
        isinstance(value, Mapping) for value in given.values()
    )


def _shown(value: Any) -> str:
    return str(dict(value) if isinstance(value, Mapping) else value).replace("'", '"')
