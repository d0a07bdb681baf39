"""How often the lab's rule claims a difference that isn't there, and how often it finds one that is.

    python benchmarks/false_claims.py > benchmarks/false_claims.txt

Studies are simulated: test errors of each pooling are normal over seeds. The rule is that of
`empool.lab.analyse.statistics.compare`; beside it stands the rule that it replaced, paired t tests over seeds with
Holm's correction, and Dunnett's test without the switch to Welch's where Levene's test says that spreads differ.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empool.lab.analyse import power
from empool.lab.analyse.statistics import LEVEL, Verdict, compare, holm

Study = NDArray[np.float64]  # (poolings, seeds); the first is the baseline


def rule(study: Study) -> NDArray[np.bool_]:
    """Tell for each pooling but the baseline whether the lab's rule decides it."""
    family = compare({str(number): errors.tolist() for number, errors in enumerate(study)}, "0", frozenset())
    decided = (Verdict.BETTER, Verdict.WORSE)
    return np.array([family.comparisons[str(number)].verdict in decided for number in range(1, len(study))])


def dunnett(study: Study) -> NDArray[np.bool_]:
    """Decide by Dunnett's test alone: by its critical value, since scipy takes up to a second a study."""
    compared, seeds = len(study) - 1, study.shape[1]
    spread = math.sqrt(study.var(1, ddof=1).mean())
    t = np.abs(study[1:].mean(1) - study[0].mean()) / (spread * math.sqrt(2 / seeds))
    return np.asarray(t > power.critical(compared, seeds))


def quick(study: Study) -> NDArray[np.bool_]:
    """Decide as `rule` does, with Dunnett's critical value in place of scipy's p-values."""
    enough = study.shape[1] > 2
    if enough and stats.levene(*study).pvalue < 1 - LEVEL:
        return rule(study)
    return dunnett(study)


def paired(study: Study) -> NDArray[np.bool_]:
    """Decide as the lab did before: t tests of the differences seed by seed, with Holm's correction."""
    p_values = [float(stats.ttest_rel(errors, study[0]).pvalue) for errors in study[1:]]
    return np.array(holm(p_values)) < 1 - LEVEL


def simulate(
    generator: np.random.Generator, means: Sequence[float], seeds: int, spreads: Sequence[float], shared: float = 0.0
) -> Study:
    """Draw the errors of a study; `shared` is the correlation of runs of one seed."""
    own = generator.normal(size=(len(means), seeds))
    common = generator.normal(size=(1, seeds))
    noise = math.sqrt(1 - shared) * own + math.sqrt(shared) * common
    return np.asarray(np.array(means)[:, None] + np.array(spreads)[:, None] * noise)


def share(hits: Sequence[bool]) -> str:
    """Write a share of studies with its standard error, in percent."""
    rate = float(np.mean(hits))
    return f"{100 * rate:5.1f} +- {100 * math.sqrt(rate * (1 - rate) / len(hits)):.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    generator = np.random.default_rng(0)
    began = time.process_time()

    print(f"Share of {studies:,} studies with no difference in which something is claimed, %; 5 is right\n")
    print(f"{'':52}{'the rule':>14}{'Dunnett alone':>16}{'paired t, Holm':>16}")
    for compared, seeds, spreads, shared, words in (
        (5, 3, 1.0, 0.0, ""),
        (6, 5, 1.0, 0.0, ""),
        (18, 3, 1.0, 0.0, ""),
        (18, 10, 1.0, 0.0, ""),
        (6, 5, 1.0, 0.3, ", seeds correlate by 0.3"),
        (6, 5, 3.0, 0.0, ", one spreads 3 times as much"),
        (6, 10, 3.0, 0.0, ", one spreads 3 times as much"),
    ):
        scales = [1.0] * compared + [spreads]
        drawn = [simulate(generator, [0.0] * (compared + 1), seeds, scales, shared) for _ in range(studies)]
        decide = rule if compared == 5 else quick  # scipy takes up to a second a study
        rates = [share([bool(by(study).any()) for study in drawn]) for by in (decide, dunnett, paired)]
        print(f"{f'{compared} poolings, {seeds} seeds{words}':52}{rates[0]:>14}{rates[1]:>16}{rates[2]:>16}")

    print("\nShare of studies that decide a pooling that is truly better, %, by its distance in spreads over seeds\n")
    print(f"{'':34}{'distance':>10}{'the rule':>14}{'paired t, Holm':>16}{'as empool power says':>22}")
    for compared, seeds in ((6, 3), (6, 5), (6, 10), (18, 3), (18, 10)):
        for distance in (1.0, 2.0, 3.0):
            means = [0.0, -distance, *[0.0] * (compared - 1)]
            drawn = [simulate(generator, means, seeds, [1.0] * (compared + 1)) for _ in range(studies)]
            rates = [share([bool(by(study)[0]) for study in drawn]) for by in (quick, paired)]
            planned = f"{100 * power.power(distance, seeds, 1.0, compared):.1f}"
            print(
                f"{f'{compared} poolings, {seeds} seeds':34}{distance:>10.0f}{rates[0]:>14}{rates[1]:>16}{planned:>22}"
            )

    drawn = [simulate(generator, [0.0] * 7, 5, [1.0] * 7) for _ in range(100)]
    alike = sum(bool((rule(study) == quick(study)).all()) for study in drawn)
    print(f"\nDunnett's critical value and scipy's p-values decide alike in {alike} of 100 studies.")
    print(f"{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
