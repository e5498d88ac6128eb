import numpy as np
import pytest

from unbatch.data.graph import Graph, neighbours, widened
from unbatch.errors import InputError

ONE = np.zeros(400, dtype=int)


def square(side: int = 20) -> np.ndarray:
    return np.column_stack(np.divmod(np.arange(side**2), side)).astype(float)


def hexagonal(side: int = 20) -> np.ndarray:
    """Row and column of spots as Visium counts them: columns of even rows are even, of odd ones odd."""
    row, place = np.divmod(np.arange(side**2), side)
    return np.column_stack((row, 2 * place + row % 2)).astype(np.float32)


def degrees(graph: Graph, n: int = 400) -> np.ndarray:
    return np.bincount(graph.source, minlength=n)


def edges(graph: Graph) -> set[tuple[int, int]]:
    return set(zip(graph.source.tolist(), graph.target.tolist(), strict=True))


@pytest.mark.parametrize("options", [{}, {"kind": "knn"}, {"kind": "radius", "radius": 0.1}])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_edges_go_both_ways_once_sorted_within_samples(options, dimensions):
    rng = np.random.default_rng(0)
    points, batch = rng.random((600, dimensions)), rng.integers(0, 3, 600)
    graph = neighbours(points, batch, **options)
    found = list(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    assert found == sorted(set(found))
    assert {(b, a) for a, b in found} == set(found)
    assert (graph.source != graph.target).all()
    assert (batch[graph.source] == batch[graph.target]).all()
    # a sample's edges do not depend on what other samples there are
    alone = np.flatnonzero(batch == 1)
    other = neighbours(points[alone], batch[alone], **options)
    assert {(alone[a], alone[b]) for a, b in edges(other)} == {(a, b) for a, b in found if batch[a] == 1}


def test_visium_indices_are_recognised_by_sample_and_join_touching_spots():
    spots = hexagonal()
    points = np.concatenate((spots, spots * [3**0.5, 1] * 137.3))
    graph = neighbours(points, np.repeat([4, 7], 400))
    assert graph.kinds == {4: "visium", 7: "delaunay"}
    steps = {
        tuple(step)
        for step in np.abs(np.diff(spots[np.column_stack((graph.source, graph.target))[:1000]], axis=1)).reshape(-1, 2)
    }
    assert steps == {(1, 1), (0, 2)}
    inside = ((spots > 1) & (spots < [18, 37])).all(axis=1)
    assert (degrees(graph, 800)[:400][inside] == 6).all()
    # the same array in pixels gives the same graph
    assert {(a + 400, b + 400) for a, b in edges(graph) if a < 400} == {(a, b) for a, b in edges(graph) if a >= 400}


def test_a_regular_grid_has_four_neighbours_without_diagonals():
    count = np.bincount(degrees(neighbours(square() * 55, ONE)))
    np.testing.assert_array_equal(count[2:], [4, 72, 324])


@pytest.mark.parametrize("step", [1, 2, 4])
def test_whole_numbers_on_a_square_grid_are_not_taken_for_a_visium_array(step):
    graph = neighbours(square() * step, ONE)
    assert graph.kinds == {0: "delaunay"}
    assert degrees(graph).max() == 4


def test_long_edges_are_cut_at_gaps_and_few_elsewhere():
    rng = np.random.default_rng(0)
    dense, sparse = rng.random((1500, 2)), rng.random((300, 2)) * [2, 2] + [1.6, 0]
    debris = [[10.0, 10.0]]
    points = np.concatenate((dense, sparse, debris))
    graph = neighbours(points, np.zeros(len(points), dtype=int))
    side = np.repeat([0, 1, 2], [1500, 300, 1])
    assert (side[graph.source] == side[graph.target]).mean() > 0.999
    degree = degrees(graph, len(points))
    assert degree[-1] == 0
    assert (degree[:-1] > 0).all()
    assert 5.5 < degree[:1500].mean() < 6


def test_points_in_a_line_or_a_plane_are_joined_there():
    rng = np.random.default_rng(0)
    along = rng.permutation(50)
    line = neighbours(np.column_stack((along, 2.0 * along)), np.zeros(50, dtype=int))
    assert {(min(e), max(e)) for e in edges(line)} == {
        tuple(sorted((int(np.flatnonzero(along == i)[0]), int(np.flatnonzero(along == i + 1)[0])))) for i in range(49)
    }
    plane = rng.random((200, 2))
    batch = np.zeros(200, dtype=int)
    tilted = np.column_stack((plane, plane.sum(axis=1)))
    assert edges(neighbours(tilted, batch)) == edges(neighbours(plane @ np.linalg.cholesky([[2, 1], [1, 2]]), batch))


@pytest.mark.parametrize("cells", [2, 3, 4])
def test_a_few_cells_are_enough(cells):
    points = np.array([[0.0, 0], [1, 0], [0.4, 0.9], [1.4, 1.0]])[:cells]
    assert (degrees(neighbours(points, ONE[:cells]), cells) > 0).all()


def test_a_few_cells_at_one_position_are_neighbours():
    points = np.random.default_rng(0).random((400, 2))
    points[7] = points[300]
    for kind in ("delaunay", "knn"):
        assert (7, 300) in edges(neighbours(points, ONE, kind))


def test_two_rings_are_all_cells_two_steps_away():
    spots = hexagonal()
    graph = neighbours(spots, ONE)
    wide = widened(graph, 400)
    assert degrees(wide).max() == 18
    steps = edges(graph)
    around = {a: {b for c, b in steps if c == a} for a in range(0, 400, 37)}
    for a, first in around.items():
        second = {b for c, b in steps if c in first}
        assert {b for c, b in edges(wide) if c == a} == (first | second) - {a}


def bad(change: str) -> dict:
    points = np.random.default_rng(0).random((400, 2))
    batch = np.repeat([0, 1], 200)
    options: dict = {"kind": "auto"}
    match change:
        case "missing":
            points[200:] = np.nan
        case "stacked":
            points[300:] = points[200:300]
        case "one place":
            points[200:] = 0
        case "no edge":
            options = {"kind": "radius", "radius": 1e-9}
        case "too many":
            points, batch = np.tile(points, (5, 1)) + 1e-3 * np.arange(2000)[:, None], np.repeat([0, 1], 1000)
            options = {"kind": "radius", "radius": 9.0}
        case "no radius":
            options = {"kind": "radius"}
        case "no k":
            options = {"kind": "knn", "k": 0}
        case "not indices":
            options = {"kind": "visium"}
        case "one column":
            points = points[:, :1]
        case "kind":
            options = {"kind": "voronoi"}
    return {"coordinates": points, "section": batch, "names": ["A", "B"], **options}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "section B: coordinates are missing in 200 of 200 cells"),
        ("stacked", "section B: 100 of 200 cells are at the position of another cell"),
        ("one place", "section B: 199 of 200 cells are at the position"),
        ("no edge", "section A: the radius graph of its 200 cells has no edge"),
        ("too many", r"a cell has 999 neighbours in the mean"),
        ("no radius", "radius is None, expected a length above 0"),
        ("no k", "k is 0, expected 1 neighbour or more"),
        ("not indices", "section A: coordinates are not whole numbers"),
        ("one column", r"shape \(400, 1\), expected 2 or 3 columns"),
        ("kind", "graph voronoi is unknown"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        neighbours(**bad(change))


def test_a_section_of_one_cell_has_no_edges_and_is_no_error():
    points = np.concatenate((square(), [[3.0, 3.0]]))
    graph = neighbours(points, np.append(ONE, 1))
    assert degrees(graph, 401)[-1] == 0
