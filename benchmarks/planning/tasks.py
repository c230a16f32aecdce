"""Plans alone, without a robot: problems whose answer needs a chosen number of dependent steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Problems:
    """B problems of N tokens each, and what is asked for."""

    tokens: Tensor  # (B, N, width), in random order
    answer: Tensor  # (B,) class
    length: Tensor  # (B,) steps of the plan
    chance: Tensor  # (B,) success of a solver that knows all but how start and answer are linked


class Task(Protocol):
    """A kind of problem."""

    width: int  # of a token
    answers: int  # number of classes
    lengths: Sequence[int]  # that can be drawn

    def draw(self, lengths: Tensor, generator: torch.Generator) -> Problems:
        """Draw one problem of each of the given lengths, (B,)."""
        ...


@dataclass(frozen=True)
class Chains:
    """Follow pointers from a marked item to the end of its chain; the answer is the item there.

    `chains` chains of the same length lie among `items` items, and each one's last item points to itself. The
    items left over point at each other in a ring. So chains differ in nothing but their items' names:
    a solver that does not follow the marked one to its end is right once in `chains` times.

    A token is an item's name and the name that it points to, both one-hot, and a mark on the start.
    """

    items: int = 21
    chains: int = 3

    @property
    def width(self) -> int:
        """Two names and the mark."""
        return 2 * self.items + 1

    @property
    def answers(self) -> int:
        """Any item."""
        return self.items

    @property
    def lengths(self) -> range:
        """Every chain has one item more than its length. A single item left over would look like an end."""
        most = self.items // self.chains - 1
        return range(1, most + 1 if self.items % self.chains != 1 else most)

    def draw(self, lengths: Tensor, generator: torch.Generator) -> Problems:
        """Draw one problem of each of the given lengths, (B,)."""
        _require(lengths, self.lengths)
        B, N = len(lengths), self.items
        names = torch.rand(B, N, generator=generator).argsort(1)  # by place: chain after chain, then the ring
        place, size = torch.arange(N), lengths[:, None] + 1
        in_chain = place < self.chains * size  # (B, N)
        end = in_chain & (place % size == size - 1)
        target = torch.where(end, place, torch.where(place == N - 1, self.chains * size, place + 1))
        mark = (place == 0).expand(B, N).unsqueeze(-1)
        tokens = torch.cat([F.one_hot(names, N), F.one_hot(names.gather(1, target), N), mark], dim=-1).float()
        answer = names.gather(1, lengths[:, None]).squeeze(1)
        return Problems(_shuffled(tokens, generator), answer, lengths, torch.full((B,), 1 / self.chains))


MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # north, east, south, west


@dataclass(frozen=True)
class Maze:
    """The first move on the only way from start to goal through a maze of `side` x `side` cells.

    Walls leave a random spanning tree of the grid. Start and goal lie `length` moves apart, and the start has
    at least two open sides. A solver that only knows these is right once in their number.

    A token is a cell: its row and column, one-hot, its four open sides, and marks on start and goal.
    """

    side: int = 5

    @property
    def width(self) -> int:
        """Row, column, sides and two marks."""
        return 2 * self.side + 6

    @property
    def answers(self) -> int:
        """The four directions."""
        return len(MOVES)

    @property
    def lengths(self) -> range:
        """Longer ways exist, but not in every maze."""
        return range(1, 2 * self.side - 1)

    def draw(self, lengths: Tensor, generator: torch.Generator) -> Problems:
        """Draw one problem of each of the given lengths, (B,)."""
        _require(lengths, self.lengths)
        drawn = [self._draw(length, generator) for length in lengths.tolist()]
        tokens, answers, chance = zip(*drawn, strict=True)
        return Problems(
            _shuffled(torch.stack(tokens), generator), torch.tensor(answers), lengths, torch.tensor(chance)
        )

    def _draw(self, length: int, generator: torch.Generator) -> tuple[Tensor, int, float]:
        """Return tokens (N, width), the answer, and one over the number of the start's open sides."""
        while True:
            sides = self._carve(generator)
            goal = int(torch.randint(len(sides), (1,), generator=generator))
            first, distance = self._ways(sides, goal)
            starts = [c for c, d in enumerate(distance) if d == length and sum(sides[c]) > 1]
            if starts:
                start = starts[int(torch.randint(len(starts), (1,), generator=generator))]
                break
        rows, columns = (F.one_hot(part, self.side) for part in self._places())
        marks = F.one_hot(torch.tensor([start, goal]), len(sides)).T
        tokens = torch.cat([rows, columns, torch.tensor(sides), marks], dim=-1).float()
        return tokens, first[start], 1 / sum(sides[start])

    def _places(self) -> tuple[Tensor, Tensor]:
        cells = torch.arange(self.side**2)
        return cells // self.side, cells % self.side

    def _carve(self, generator: torch.Generator) -> list[list[bool]]:
        """Draw a spanning tree by random depth-first search; return each cell's four open sides."""
        sides = [[False] * 4 for _ in range(self.side**2)]
        numbers = iter(torch.rand(16 * self.side**2, generator=generator).tolist())
        stack, seen = [0], {0}
        while stack:
            ways = [(move, to) for move, to in self._neighbours(stack[-1]) if to not in seen]
            if not ways:
                stack.pop()
                continue
            move, to = ways[int(next(numbers) * len(ways))]
            sides[stack[-1]][move] = sides[to][(move + 2) % 4] = True
            seen.add(to)
            stack.append(to)
        return sides

    def _neighbours(self, cell: int) -> list[tuple[int, int]]:
        row, column = divmod(cell, self.side)
        return [
            (move, (row + down) * self.side + column + right)
            for move, (down, right) in enumerate(MOVES)
            if 0 <= row + down < self.side and 0 <= column + right < self.side
        ]

    def _ways(self, sides: list[list[bool]], goal: int) -> tuple[list[int], list[int]]:
        """Return every cell's first move towards the goal, and its distance, by search from the goal."""
        first, distance = [-1] * len(sides), [-1] * len(sides)
        distance[goal], queue = 0, deque([goal])
        while queue:
            cell = queue.popleft()
            for move, to in self._neighbours(cell):
                if sides[cell][move] and distance[to] < 0:
                    first[to], distance[to] = (move + 2) % 4, distance[cell] + 1
                    queue.append(to)
        return first, distance


def _require(lengths: Tensor, possible: Sequence[int]) -> None:
    wrong = set(lengths.tolist()) - set(possible)
    if wrong:
        raise ValueError(f"lengths must be {possible[0]} to {possible[-1]}, got {sorted(wrong)}")


def _shuffled(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Reorder the tokens of every problem, (B, N, width)."""
    order = torch.rand(tokens.shape[:2], generator=generator).argsort(1)
    return tokens.gather(1, order[..., None].expand_as(tokens))
