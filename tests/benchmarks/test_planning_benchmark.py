"""The planning benchmark: right answers by brute force, fair chances, counted costs, resuming, a training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.log import Line, Log
from benchmarks.planning.planner import Planner, Shape
from benchmarks.planning.suites import Group, Suite, run_training
from benchmarks.planning.tables import tables
from benchmarks.planning.tasks import MOVES, Chains, Maze, Problems
from benchmarks.planning.training import TEST_SEED, Recipe, fixed_problems, success, update_loss


def draw(task: Chains | Maze, length: int, *, count: int = 200, seed: int = 0) -> Problems:
    return task.draw(torch.full((count,), length), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", [Chains(21, 3), Chains(16, 3), Chains(12, 2)])
def test_following_the_pointers_from_the_mark_ends_at_the_answer(task: Chains) -> None:
    for length in task.lengths:
        problems = draw(task, length)
        for tokens, answer in zip(problems.tokens, problems.answer.tolist(), strict=True):
            names, targets = (part.argmax(1).tolist() for part in tokens[:, :-1].chunk(2, dim=1))
            assert sorted(names) == list(range(task.items))
            pointer = dict(zip(names, targets, strict=True))
            (marked,) = tokens[:, -1].nonzero().flatten().tolist()
            item, steps = names[marked], 0
            while pointer[item] != item:
                item, steps = pointer[item], steps + 1
            assert (item, steps) == (answer, length)
            # As many ends as chains, each reached by as many items: nothing else tells the answer.
            ends = [name for name in names if pointer[name] == name]
            reached = Counter(_last(pointer, name) for name in names)
            assert len(ends) == task.chains
            assert all(reached[end] == length + 1 for end in ends)
        assert torch.all(problems.chance == 1 / task.chains)


def _last(pointer: dict[int, int], item: int) -> int | None:
    """Follow the pointers; None in a ring."""
    for _ in pointer:
        item = pointer[item]
    return item if pointer[item] == item else None


def test_the_first_move_is_on_the_shortest_way_through_the_maze() -> None:
    task = Maze(4)
    for length in task.lengths:
        problems = draw(task, length, count=30)
        for tokens, answer, chance in zip(
            problems.tokens, problems.answer.tolist(), problems.chance.tolist(), strict=True
        ):
            rows, columns = tokens[:, :4].argmax(1).tolist(), tokens[:, 4:8].argmax(1).tolist()
            sides = dict(zip(zip(rows, columns, strict=True), tokens[:, 8:12].bool().tolist(), strict=True))
            assert len(sides) == 16
            assert sum(map(sum, sides.values())) == 2 * 15  # the two sides of a spanning tree's edges
            start, goal = (list(sides)[int(tokens[:, 12 + mark].argmax())] for mark in (0, 1))
            distances = {
                move: _distance(sides, _step(start, move), goal)
                for move, is_open in enumerate(sides[start])
                if is_open
            }
            assert min(distances, key=distances.__getitem__) == answer
            assert distances[answer] == length - 1
            assert chance == pytest.approx(1 / len(distances))
            assert len(distances) > 1


def _step(cell: tuple[int, int], move: int) -> tuple[int, int]:
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def _distance(sides: dict[tuple[int, int], list[bool]], start: tuple[int, int], goal: tuple[int, int]) -> int:
    """Moves from start to goal: grow the set of cells reached until it holds the goal."""
    reached, moves = {start}, 0
    while goal not in reached:
        reached |= {_step(cell, move) for cell in reached for move in range(4) if sides[cell][move]}
        moves += 1
    return moves


@pytest.mark.parametrize("task", [Chains(), Maze()])
def test_problems_follow_from_their_seed_and_lengths_out_of_range_are_refused(task: Chains | Maze) -> None:
    first, same, other = (draw(task, 2, count=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tokens, same.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.tokens.shape[2] == task.width
    with pytest.raises(ValueError, match=r"lengths must be 1 to"):
        draw(task, max(task.lengths) + 1)


def test_operations_are_those_of_the_formulas() -> None:
    """Every matrix product by hand, for one answer token: no product is forgotten or counted twice."""
    task, D, N, depth = Chains(9, 3), 12, 9, 5
    planner = Planner(task, Shape(core=2, width=D), context_width=D)
    context = (N * 2 + 2 * 2) * D * D  # keys and values: of the items, and of latent and proprioception
    token = 3 * D * D + D * D + 2 * D * D + 12 * D * D  # self-attention, cross-attention, SwiGLU
    attention = 2 * D + 2 * (N + 2) * D  # scores and mixtures: of one token, and of the context
    adapter, output = D * D, D * task.answers
    expected = 2 * context + adapter + depth * (adapter + 2 * (token + attention)) + output
    assert planner.operations(N, depth=depth) == expected


def test_an_answer_is_counted_by_depth() -> None:
    task = Chains(9, 3)
    problems = fixed_problems(task, task.lengths, 40, seed=3)
    torch.manual_seed(0)
    planner = Planner(task, Shape(width=12), context_width=12)
    found = success(planner, problems, depths=[1, 4])
    for depth in (1, 4):
        for length, each in problems.items():
            start = planner.head.initial_state(40, torch.Generator().manual_seed(TEST_SEED))
            context = planner.context(each.tokens)
            actions = planner.head.predict(context, stop=depth, initial_state=start).actions
            assert found[depth][length] == (actions[:, 0].argmax(-1) == each.answer).sum()


@pytest.mark.parametrize("supervise", ["last", "every", "detached"])
def test_gradient_reaches_what_the_recipe_says(supervise: str) -> None:
    task = Chains(9, 3)
    planner = Planner(task, Shape(width=12), context_width=12)
    problems = draw(task, 2, count=8)

    def gradient(depth: int, gradient_depth: int) -> Tensor:
        recipe = Recipe(depth=depth, gradient_depth=gradient_depth, supervise=supervise)
        planner.zero_grad()
        update_loss(planner, problems, recipe, torch.Generator().manual_seed(0)).backward()
        found = planner.head.gamma_init.grad  # of S_0: it has one if gradient flows through every iteration
        return torch.zeros(1) if found is None else found

    assert gradient(3, 3) != 0
    assert gradient(3, 2) == 0
    # Iterations cut off from each other learn from their own loss alone: the first one's reaches S_0.


def test_the_longest_plan_grows() -> None:
    recipe = Recipe(longest=4, curriculum=0.5, updates=100)
    assert [recipe.longest_at(update) for update in (0, 24, 25, 49, 50, 99)] == [2, 2, 3, 3, 4, 4]
    assert Recipe(longest=4).longest_at(0) == 4


TINY = Recipe(longest=1, depth=1, updates=2, batch=4)


def test_a_suite_tunes_with_the_first_seed_and_goes_on_from_its_log(tmp_path: Path) -> None:
    group = Group(Chains(9, 3), Shape(width=12), TINY, depths=(1, 2))
    suite = Suite({"first": group, "second": group}, learning_rates=(1e-2, 1e-3))
    log = Log(tmp_path / "log.jsonl")
    suite.run(log, seeds=[0, 1])
    names = [
        (line["case"], line["settings"]["recipe"]["learning_rate"], line["settings"]["seed"])
        for line in log.lines
        if line["kind"] == "training"
    ]
    rates = [(rate, 0) for rate in (1e-2, 1e-3)]
    assert names[:4] == [(case, *rate) for rate in rates for case in ("first", "second")]
    assert [(case, seed) for case, _, seed in names[4:]] == [("first", 1), ("second", 1)]

    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([*lines[:3], lines[3][:50]]))  # killed in the third training
    again = Log(log.path)
    assert len(again.lines) == 3
    suite.run(again, seeds=[0, 1])
    same = ("case", "settings", "success", "operations")
    assert [[line.get(key) for key in same] for line in again.lines] == [
        [json.loads(line).get(key) for key in same] for line in lines
    ]

    other = Suite({"first": replace(group, recipe=replace(TINY, updates=3))}, learning_rates=(1e-2,))
    with pytest.raises(ValueError, match=r"other settings; choose another --output"):
        other.run(again, seeds=[0])


def line(rate: float, seed: int, solved: int, correct: tuple[int, int]) -> Line:
    shape = {"1": {"1": correct[0], "2": correct[1]}}
    return {
        "kind": "training", "case": "single", "cpu_seconds": 3.0, "problems": 100,
        "settings": {"recipe": {"learning_rate": rate, "depth": 1}, "seed": seed},
        "curve": [{"update": 10, "validation": {"1": solved}}], "chance": {"1": 0.5, "2": 0.25},
        "parameters": 1000, "operations": {"1": 2000}, "success": shape,
    }  # fmt: skip


def test_the_table_has_the_best_rate_and_pools_its_seeds() -> None:
    lines = [line(1e-2, 0, 10, (1, 1)), line(1e-3, 0, 64, (100, 30)), line(1e-3, 1, 9, (90, 20))]
    found = list(tables(lines))
    # Wilson's interval of 190 in 200 is 91.0 to 97.3%, of 50 in 200 it is 19.5 to 31.4%.
    assert found[2] == "| single | 1 | 1k | 2k | 0.001 | 95 (91-97) | 25 (20-31) | 2 |"
    assert found[3] == "| chance |  |  |  |  | 50 | 25 |  |"
    assert "| single | 0.01 | 0 | 8 | 10 | 3 |" in found


@pytest.mark.slow
def test_a_thin_recurrent_head_learns_to_follow_a_pointer() -> None:
    """With two steps to go, one iteration can not know the answer; two can, after a short training."""
    group = Group(Chains(9, 3), Shape(), Recipe(longest=2, depth=2, learning_rate=3e-3, updates=500))
    found = run_training(group, group.recipe, seed=0, problems=200)
    assert found["success"]["2"]["1"] >= 190
    assert found["success"]["2"]["2"] >= 150
    assert found["success"]["1"]["2"] <= 100
