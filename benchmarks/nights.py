"""Simulated nights: how often history sees a slowdown, and how often where there is none.

What runs is the product's own: suspicion, rerun's interval and verdict, anchor. Only times are
drawn: a night's speed-up with 3 % of noise, and for the rerun what docs/measuring.md measured: 3.7
% a round, 1.5 % between two sessions of one file.

    python -m benchmarks.nights                 # the seeds that figures are reported on
    python -m benchmarks.nights --first-seed 0 --seeds 300     # those that WIDTH was chosen on
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.history.judge.rerun import MIN_ROUNDS, REPETITIONS
from pipeline.history.judge.series import Series
from pipeline.history.judge.slower import Beside, conclude, has_improved, suspect
from pipeline.history.judge.steps import find_steps
from pipeline.measure.speed.intervals import compare

FloatArray = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], FloatArray]

NIGHTS, NOISE = 60, 0.03
ROUND_NOISE, SESSION_NOISE = 0.037, 0.015
FIRST_STEP, LAST_STEP = 15, 55


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Nights to simulate: log-speed of each night's bundle and of the machine's part, and noise."""

    bundle: FloatArray
    machine: FloatArray
    noise: Noise
    confirm: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Nights that failed, and nights that took a rerun."""

    failed: Sequence[int]
    reruns: int


def normal(random: np.random.Generator, n: int) -> FloatArray:
    """Draw the log of a night's noise."""
    return random.normal(0, NOISE, n)


def heavy(random: np.random.Generator, n: int) -> FloatArray:
    """Draw from Student's t with three degrees of freedom, of the same standard deviation."""
    drawn: FloatArray = random.standard_t(3, n) * NOISE / np.sqrt(3)
    return drawn


def simulate(plan: Plan, seed: int) -> Seen:
    """Judge night after night as the product does."""
    random = np.random.default_rng(seed)
    n = len(plan.bundle)
    values = np.exp(plan.bundle + plan.machine + plan.noise(random, n))
    good: list[int] = []
    failed, reruns, anchor, level = [], 0, 0, 0
    for night in range(n):
        before = _series(values, good)
        suspicion = suspect(before, values[night], before.since(_name(level)))
        if suspicion is None:
            if has_improved(before, values[night], before.since(_name(level))):
                anchor = level = night
            good.append(night)
            continue
        reruns += 1
        older = {night - 1, anchor}
        beside = [_beside(plan.bundle[night] - plan.bundle[k], random) for k in sorted(older)]
        kind = conclude(beside) if plan.confirm else "regression"
        if kind == "regression":
            failed.append(night)
            continue
        good.append(night)
        if suspicion.rule == "creep":
            level = night
    return Seen(failed=failed, reruns=reruns)


def _series(values: FloatArray, nights: Sequence[int]) -> Series:
    return Series(nights=tuple(map(_name, nights)), values=values[list(nights)])


def _name(night: int) -> str:
    return f"{night:05}"


def _beside(faster: float, random: np.random.Generator) -> Beside:
    """Time a bundle that is faster by a log-ratio, as often as the product does."""
    speedups = []
    for _ in range(REPETITIONS):
        ratio = faster + random.normal(0, SESSION_NOISE)
        times = np.exp(-ratio + random.normal(0, ROUND_NOISE, MIN_ROUNDS))
        speedups.append(compare(np.ones(MIN_ROUNDS), times))
    return Beside(name="older", speedups=speedups)


def step_plan(loss: float, at: int, *, noise: Noise = normal, confirm: bool = True) -> Plan:
    """Return 60 nights whose bundle is slower by a share from one night on."""
    bundle = np.zeros(NIGHTS)
    bundle[at:] = np.log1p(-loss)
    return Plan(bundle=bundle, machine=np.zeros(NIGHTS), noise=noise, confirm=confirm)


def issue_holds(seen: Seen, at: int) -> bool:
    """Whether the slowdown failed its night or the next, with at most one false alarm before."""
    return bool({at, at + 1} & set(seen.failed)) and sum(t < at for t in seen.failed) <= 1


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1000)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(f"{len(seeds)} seeds from {options.first_seed}; {NIGHTS} nights, {NOISE:.0%} noise")
    for noise in (normal, heavy):
        for confirm in (True, False):
            print(f"\n{noise.__name__} noise, {'with' if confirm else 'without'} the rerun")
            _print_power(seeds, noise, confirm=confirm)
            _print_false_alarms(seeds, noise, confirm=confirm)
    print("\nmachine step of 8 % at night 30, no bundle slower")
    _print_machine(seeds)
    print("\nsteps in single lines, with no judging")
    for noise in (normal, heavy):
        _print_steps(seeds, noise)
    print("\nslow drift over 180 nights")
    for loss in (0.0005, 0.001, 0.002, 0.005):
        _print_drift(seeds, loss)


def _print_power(seeds: Sequence[int], noise: Noise, *, confirm: bool) -> None:
    for loss in (0.03, 0.05, 0.07, 0.10, 0.20):
        held, first, within = 0, 0, 0
        for seed in seeds:
            at = int(np.random.default_rng([seed, 1]).integers(FIRST_STEP, LAST_STEP + 1))
            seen = simulate(step_plan(loss, at, noise=noise, confirm=confirm), seed)
            first += at in seen.failed
            within += bool({at, at + 1} & set(seen.failed))
            held += issue_holds(seen, at)
        shares = " ".join(f"{count / len(seeds):7.1%}" for count in (first, within, held))
        print(
            f"  {loss:4.0%} slower: first night, two nights, and at most one false alarm: {shares}"
        )


def _print_false_alarms(seeds: Sequence[int], noise: Noise, *, confirm: bool) -> None:
    plan = step_plan(0, 0, noise=noise, confirm=confirm)
    seen = [simulate(plan, seed) for seed in seeds]
    nights = NIGHTS * len(seeds)
    failed, reruns = sum(len(s.failed) for s in seen), sum(s.reruns for s in seen)
    print(
        f"  nothing slower: {365 * failed / nights:.2f} false alarms a year and cell, "
        f"suspicions on {reruns / nights:.1%} of the nights"
    )


def _print_machine(seeds: Sequence[int]) -> None:
    machine = np.zeros(NIGHTS)
    machine[30:] = np.log1p(-0.08)
    for confirm in (True, False):
        plan = Plan(bundle=np.zeros(NIGHTS), machine=machine, noise=normal, confirm=confirm)
        seen = [simulate(plan, seed) for seed in seeds]
        failed = np.mean([any(t >= 30 for t in s.failed) for s in seen])
        reruns = np.mean([s.reruns for s in seen])
        words = "with" if confirm else "without"
        print(f"  {words} the rerun: {failed:.1%} fail a night, {reruns:.1f} suspicions")


def _print_steps(seeds: Sequence[int], noise: Noise) -> None:
    """Count lines with a step where there is none, and steps found within five nights of theirs."""
    for nights in (30, 90):
        lines = [noise(np.random.default_rng(seed), nights) for seed in seeds]
        wrong = sum(bool(find_steps(np.exp(line).tolist(), least=0.01)) for line in lines)
        print(f"  {noise.__name__}, {nights} nights without: {wrong / len(seeds):.1%} have one")
        for loss in (0.03, 0.05, 0.10):
            drop = np.where(np.arange(nights) < nights // 2, 0, np.log1p(-loss))
            found = sum(
                any(
                    abs(step.index - nights // 2) <= 5
                    for step in find_steps(np.exp(line + drop).tolist(), least=0.01)
                )
                for line in lines
            )
            print(f"    {loss:.0%} in the middle: found in {found / len(seeds):.1%}")


def _print_drift(seeds: Sequence[int], loss: float) -> None:
    nights = 180
    bundle = np.log1p(-loss) * np.arange(nights)
    plan = Plan(bundle=bundle, machine=np.zeros(nights), noise=normal)
    seen = [simulate(plan, seed) for seed in seeds]
    caught = [s.failed[0] for s in seen if s.failed]
    lost = 1 - (1 - loss) ** (float(np.median(caught)) if caught else np.nan)
    print(
        f"  {loss:.2%} a night: caught in {len(caught) / len(seen):.1%}, "
        f"half of them by the time {lost:.1%} is lost"
    )


if __name__ == "__main__":
    main()
