"""`empool bench` at tiny sizes: every case runs and the tables hold what it gave; no time is judged."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import empool
from empool import bench as bench_module
from empool.bench import __main__ as command
from empool.bench import base, bench, cases, contestants, markdown, memory, peers, table, timing, worker
from empool.bench.cases import Case, Window
from empool.bench.contestants import Data
from empool.lab.errors import LabError
from empool.lab.train import signals

SHAPE = (2, 3, 9, 8)


def case(phase: str, *names: str, dtype: str = "float32", layout: str = "contiguous", window: int = 0) -> Case:
    return Case(phase, SHAPE, cases.WINDOWS[window], layout, dtype, names, cases.REUSED)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "speed.json"
    bench("cpu", path, quick=True, threads=1, shapes=[SHAPE], dtypes=["float32"], seconds=1e-3, say=lambda line: None)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_plan_has_every_combination() -> None:
    for device, shapes in cases.SHAPES.items():
        planned = cases.plan(device)
        assert len(set(planned)) == len(planned)
        kinds = {(c.phase, c.shape, c.window, c.layout, c.dtype) for c in planned if cases.OURS in c.contestants}
        assert kinds >= set(
            itertools.product((cases.STEP, cases.TEST), shapes, cases.WINDOWS, cases.LAYOUTS, cases.DTYPES)
        )
        operators = {(c.phase, c.window, c.layout, c.dtype) for c in planned}
        assert operators >= set(itertools.product(cases.OPERATORS, cases.WINDOWS, cases.LAYOUTS, cases.DTYPES))
        assert {name for c in planned for name in c.contestants} >= {*cases.METHODS, cases.UNFOLD, cases.COPY}
        assert {c.window for c in planned} >= {*cases.GENERAL}
        assert (cases.NETWORK in {c.phase for c in planned}) == (device == "cuda")
        assert (cases.AS_IT_COMES in {c.memory for c in planned}) == (device == "cpu")


def test_quick_plan_is_a_subset() -> None:
    for device in cases.SHAPES:
        quick, full = cases.plan(device, quick=True), cases.plan(device)
        assert len(quick) < len(full) / 2
        of = {(c.phase, c.shape, c.window, c.layout, c.dtype, c.memory): set(c.contestants) for c in full}
        assert all(set(c.contestants) <= of[(c.phase, c.shape, c.window, c.layout, c.dtype, c.memory)] for c in quick)


def test_only_keeps_cases_with_all_words() -> None:
    kept = cases.plan("cpu", only="step, 3x3/2 channels float16")
    assert kept
    assert {(c.phase, str(c.window), c.layout, c.dtype) for c in kept} == {
        (cases.STEP, "3x3/2 pad 1", "channels last", "float16")
    }


def test_case_survives_json() -> None:
    for planned in cases.plan("cuda"):
        assert Case.from_json(json.loads(json.dumps(planned.as_json()))) == planned


def test_window_output_is_max_pools() -> None:
    for window in (*cases.WINDOWS, *cases.GENERAL):
        layer = torch.nn.MaxPool2d(window.kernel_size, window.stride, window.padding)
        assert window.output(SHAPE) == tuple(layer(torch.zeros(SHAPE)).shape)


def test_floor_bytes_by_hand() -> None:
    inputs, outputs = 2 * 3 * 9 * 8, 2 * 3 * 4 * 4
    assert case(cases.TEST).floor_bytes(4) == 4 * (inputs + outputs)
    assert case(cases.STEP).floor_bytes(2) == 2 * 2 * (inputs + outputs) + 2 * outputs
    assert case("drawn_scatter").floor_bytes(2) == 2 * (inputs + outputs) + outputs


def test_read_shapes() -> None:
    assert cases.read_shapes("64x64x56x56,1x2x3x4") == [(64, 64, 56, 56), (1, 2, 3, 4)]
    for text in ("", "1x2x3", "1x2x3x0", "axbxcxd", "1x2x3x4,"):
        with pytest.raises(LabError, match="expected shapes"):
            cases.read_shapes(text)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("window", [0, 1])
def test_unfold_topk_does_what_ours_does(window: int, layout: str) -> None:
    """Without randomness (p = 0, p = 1, testing) they are the same function, gradients too."""
    one = case(cases.STEP, layout=layout, window=window)
    (input,) = Data.of(one, "cpu", 1).inputs
    sides = (one.window.kernel_size, one.window.stride, one.window.padding)
    for p, training in ((0.0, True), (1.0, True), (0.25, False)):
        obvious = contestants.unfold_topk(input, window=one.window, p=p, training=training)
        ours = empool.functional.ensemble_max_pool2d(input, *sides, p=p, training=training)
        assert_close(obvious, ours)
        gradient = torch.randn_like(ours)
        assert_close(torch.autograd.grad(obvious, input, gradient), torch.autograd.grad(ours, input, gradient))


def test_unfold_topk_draws_the_second_as_often_as_p() -> None:
    input = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(100, 100, 2, 2)
    output = contestants.unfold_topk(input, window=Window(2, 2), p=0.3, training=True)
    assert set(output.unique().tolist()) == {3.0, 4.0}
    assert abs((output == 3).double().mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 10_000)


def test_kept_counts_what_max_pool_keeps() -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    assert contestants.kept(torch.nn.MaxPool2d(2), input) == (8 * 2 * 3 * 4 * 4, True)
    assert contestants.kept(empool.EnsembleMaxPool2d(2), input) == (2 * 3 * 4 * 4, False)


@pytest.mark.parametrize("dtype", [*cases.DTYPES, "float64"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_data_has_the_case_s_type_and_layout(layout: str, dtype: str) -> None:
    data = Data.of(case(cases.STEP, dtype=dtype, layout=layout), "cpu", 2)
    assert len(data.inputs) == len(data.gradients) == 2
    assert not torch.equal(*data.inputs)
    for tensor in (*data.inputs, *data.gradients):
        assert tensor.dtype == getattr(torch, dtype)
        assert (tensor.stride(1) == 1) == (layout == "channels last")
    assert all(input.is_leaf and input.requires_grad for input in data.inputs)


@pytest.mark.parametrize("phase", [cases.STEP, cases.TEST])
def test_every_layer_runs(phase: str) -> None:
    names = (cases.MAX, cases.OURS, cases.COPY, *cases.METHODS, cases.UNFOLD)
    rows = worker.measure(case(phase, *names), "cpu", 1e-4, timing.wall_clock, 1.0)
    assert [row["contestant"] for row in rows] == list(names)
    assert all(("kept_bytes" in row) == (phase == cases.STEP and row["contestant"] != cases.COPY) for row in rows)
    for row in rows:
        assert 0 < row["seconds"]["lower"] <= row["seconds"]["median"] <= row["seconds"]["upper"]
    assert set(rows[0]["ratio"].values()) == {1.0}
    assert {row["contestant"]: row["copy_share"] for row in rows}[cases.COPY] == 1.0


@pytest.mark.parametrize("phase", [cases.STEP, cases.TEST])
def test_every_peer_runs(phase: str) -> None:
    names = (cases.MAX, *cases.PEERS)
    rows = worker.measure(case(phase, *names), "cpu", 1e-4, timing.wall_clock, 1.0)
    assert [row["contestant"] for row in rows] == list(names)


def test_peers_do_what_ours_do() -> None:
    """The peers that are the same method give the same numbers."""
    one, input = case(cases.TEST), torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for peer, ours in {"SoftPool in PyTorch": "soft:1", "ordinal by unfold": "ordinal:0.6,0.3,0.1"}.items():
        assert_close(peers.PEERS[peer](one)(input), contestants.pool(one, ours)(input))


def test_base_compares_ratios() -> None:
    """Rows are paired by case and contestant; the baseline and the copy are not compared."""
    one = case(cases.TEST, cases.MAX, cases.OURS, cases.COPY)
    rows = worker.measure(one, "cpu", 1e-4, timing.wall_clock, 1.0)

    def narrow(factor: float, spread: float) -> list[dict[str, Any]]:
        quartiles = {"lower": factor - spread, "median": factor, "upper": factor + spread}
        return [row | {"ratio": quartiles} for row in rows]

    for spread, verdict in ((0.4, "2.00 faster"), (0.6, "2.00 same")):  # Quartiles apart, and overlapping.
        (pair,) = base.compared(narrow(1.0, spread), narrow(2.0, spread))
        assert pair["contestant"] == cases.OURS
        assert_close(pair["speed_up"], 2.0)
        assert "\n".join(base.lines([pair], "0123456789")).endswith(verdict)
    assert [c.phase for c in base.comparable([one, case("rank_mean", cases.TWIN)])] == [cases.TEST]


def test_base_measures_another_tree() -> None:
    """The worker that is told of a tree measures that tree's package."""
    src = Path(empool.__file__).parents[1]
    order = {
        "device": "cpu",
        "threads": 1,
        "seconds": 1e-3,
        "cases": [case(cases.TEST, cases.MAX, cases.OURS).as_json()],
    }
    done = subprocess.run(base.worker(src), input=json.dumps(order), capture_output=True, text=True, check=True)
    assert [row["contestant"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]] == [cases.MAX, cases.OURS]


def test_base_leaves_no_worktree_behind(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    git("commit", "--allow-empty", "-m", "a")
    ended = pytest.raises(signals.Terminated)
    with ended, base.built(tmp_path, "HEAD", lambda line: signal.raise_signal(signal.SIGTERM)):
        pytest.fail("no build was to begin")
    assert len(git("worktree", "list").splitlines()) == 1


def test_base_reports_nothing_where_a_kernel_test_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / base.GATE).write_text("def test_kernel():\n    assert False\n")
    monkeypatch.setattr(base, "repository", lambda: tmp_path)
    with pytest.raises(LabError, match="no speed-up is reported"):
        bench(quick=True, shapes=[SHAPE], dtypes=["float32"], base="HEAD", say=lambda line: None)


@pytest.mark.parametrize("built", [True, False])
def test_base_times_no_kernels_that_are_stale_or_missing(built: bool, tmp_path: Path) -> None:
    """A setup that carries on without a compiler leaves the old kernels, or none: neither is what is to be timed."""
    package = tmp_path / "src/empool"
    (package / "csrc").mkdir(parents=True)
    (package / "csrc/rank_mean.h").touch()
    (tmp_path / "setup.py").write_text("print('error: rank_mean.h')\n")
    if built:
        (package / "_C.abi3.so").touch()
        os.utime(package / "_C.abi3.so", (0, 0))
    with pytest.raises(LabError, match=r"v1 does not build: error: rank_mean\.h"):
        base._build(tmp_path, "v1")
    base._build(tmp_path, "v1", wanted=False)  # Neither tree has kernels: nobody wants any.


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("operator", [name for name in cases.OPERATORS if name != "rank_mean_weight_grad"])
def test_operators_and_their_twins_give_tensors_alike(operator: str, layout: str) -> None:
    one = case(operator, cases.TWIN, operator, layout=layout, window=1)
    data = Data.of(one, "cpu", 1)
    results = {name: call(0) for name, call in contestants.calls(one, data, {}).items()}
    ours, twin = (r[0] if isinstance(r, tuple) else r for r in (results[operator], results[cases.TWIN]))
    assert isinstance(ours, torch.Tensor)
    assert isinstance(twin, torch.Tensor)
    assert ours.numel() == twin.numel()
    assert not torch.equal(ours.flatten(), twin.flatten()), "ours draws or averages, the twin takes the maximum"


def test_alternate_pairs_rounds_and_spares_the_slow() -> None:
    """On a clock that counts, the ratios are exact, and a slow contestant takes part in fewer rounds."""
    cost = {"base": 1.0, "double": 2.0, "slow": 40.0}
    turns: list[str] = []

    def clock(call: timing.Call, first: int, calls: int) -> float:
        name = str(call(first))
        turns.append(name)
        return calls * cost[name] * (1 + first)  # Later rounds are slower, which pairing takes out.

    timings = timing.alternate({name: lambda _, name=name: name for name in cost}, clock, 40.0)  # type: ignore[misc]
    assert timings["base"].rounds == timings["double"].rounds > timings["slow"].rounds >= 1
    assert {name: t.ratio.median for name, t in timings.items()} == {"base": 1.0, "double": 2.0, "slow": 40.0}
    assert turns.count("slow") == timings["slow"].rounds + 2  # Two to warm up.


def test_quartiles() -> None:
    assert timing.Quartiles.of([3.0]) == timing.Quartiles(3.0, 3.0, 3.0)
    assert timing.Quartiles.of([1.0, 2.0, 3.0, 4.0, 5.0]) == timing.Quartiles(2.0, 3.0, 4.0)


def test_environment_reuses_memory_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    reused, default = memory.environment(cases.REUSED), memory.environment(cases.AS_IT_COMES)
    assert memory.REUSE.items() <= reused.items()
    assert not memory.REUSE.keys() & default.keys()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's environment and page faults")
def test_reused_memory_has_no_page_faults() -> None:
    """A block of 64 MiB, taken again and again: without reuse every page of it is a fault."""
    program = (
        "import resource, torch\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): torch.ones(1 << 24)\n"
        "before = faults()\n"
        "for _ in range(4): torch.ones(1 << 24)\n"
        "print(faults() - before)\n"
    )
    counts = {}
    for kind in (cases.REUSED, cases.AS_IT_COMES):
        run = [sys.executable, "-c", program]
        counts[kind] = int(subprocess.check_output(run, env=memory.environment(kind), text=True))
    assert counts[cases.REUSED] < 100 < counts[cases.AS_IT_COMES]


def test_record_says_where_it_comes_from(record: dict[str, Any]) -> None:
    assert record["versions"]["torch"] == torch.__version__
    assert record["threads"] == 1
    assert record["reuse"] == memory.REUSE
    assert record["copy_bandwidth"] > 0
    assert {"command", "time", "processor", "capability", "kernels", "load_before", "load_after"} <= record.keys()
    planned = cases.plan("cpu", quick=True, shapes=[SHAPE], dtypes=["float32"])
    assert len(record["rows"]) == sum(len(c.contestants) for c in planned)
    assert [table.title(row) for row in record["rows"]] == [str(c) for c in planned for _ in c.contestants]


def test_summary_holds_every_ratio(record: dict[str, Any]) -> None:
    text = "\n".join(table.summary(record))
    for row in record["rows"]:
        if row["contestant"] == cases.OURS:
            assert f"{row['ratio']['median']:.2f}" in text


def test_block_names_case_and_contestants(record: dict[str, Any]) -> None:
    rows = [row for row in record["rows"] if table.title(row) == table.title(record["rows"][0])]
    assert table.title(record["rows"][-1]) == "inference forward, 1x8x4x4, 2x2/2, contiguous, float32"
    first, *rest = table.block(rows, "[1/2]")
    assert first == "[1/2] training step, 2x3x9x8, 2x2/2, contiguous, float32"
    assert [line.split()[0] for line in rest] == [row["contestant"] for row in rows]


def test_times_are_readable() -> None:
    assert [table.figures(n) for n in (1234.5, 99.94, 1.0, 0.01234)] == ["1234", "99.9", "1", "0.0123"]


def test_markdown_goes_between_the_marks(record: dict[str, Any], tmp_path: Path) -> None:
    results, page = tmp_path / "speed.json", tmp_path / "README.md"
    results.write_text(json.dumps(record))
    page.write_text("before\n<!-- bench:cpu -->\nold\n<!-- /bench:cpu -->\nafter\n")
    for _ in range(2):
        markdown.write(results, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench:cpu -->\n")
    assert text.endswith("<!-- /bench:cpu -->\nafter\n")
    assert "\nold\n" not in text
    assert text.count("**Training step with ensemble:0.1, relative to max-pooling**") == 1
    assert record["processor"] in text


def test_markdown_refuses_other_files(record: dict[str, Any], tmp_path: Path) -> None:
    results, page = tmp_path / "speed.json", tmp_path / "README.md"
    results.write_text("[]")
    with pytest.raises(LabError, match="expected a file that empool bench --json wrote"):
        markdown.write(results)
    results.write_text(json.dumps(record))
    page.write_text("no marks\n")
    with pytest.raises(LabError, match=r"expected a line <!-- bench:cpu -->"):
        markdown.write(results, page)
    assert page.read_text() == "no marks\n"


def test_failed_case_spares_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Images smaller than the window without padding fail at 2x2/2; the padded window and the tiny calls do not."""
    path = tmp_path / "speed.json"
    arguments = {"quick": True, "threads": 1, "shapes": [(1, 2, 1, 1)], "dtypes": ["float32"], "seconds": 1e-3}
    with pytest.raises(LabError, match="8 of 19 cases failed"):
        bench("cpu", path, **arguments)  # type: ignore[arg-type]
    content = json.loads(path.read_text())
    assert {failed["failed"].split(", ")[2] for failed in content["failed"]} == {"2x2/2"}
    assert {row["window"] for row in content["rows"] if row["shape"] != list(cases.TINY)} == {"3x3/2 pad 1"}
    assert "training step, 1x2x1x1, 2x2/2, contiguous, float32: RuntimeError" in capfd.readouterr().out


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match='no case has all the words "triangle"'):
        bench(only="triangle")
    with pytest.raises(LabError, match="expected dtypes among float32, bfloat16, float16, float64, got int8"):
        bench(dtypes=["int8"])
    with pytest.raises(LabError, match="expected at least 1 thread, got 0"):
        bench(threads=0)
    with pytest.raises(LabError, match="expected seconds of at least 0, got -1"):
        bench(seconds=-1)
    with pytest.raises(LabError, match="no such folder"):
        bench(json_path=tmp_path / "none" / "speed.json")


def test_no_seconds_are_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []

    def measured(kind: str, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
        orders.append(order)
        yield {"copy_bandwidth": 1e9}

    monkeypatch.setattr(bench_module, "_worker", measured)
    bench(only="rank_draw 2x2/2 contiguous float16", shapes=[(1, 2, 4, 4)], seconds=0)
    assert [order["seconds"] for order in orders] == [0]


def test_a_page_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--into", str(tmp_path / "page.md")]) == 1
    assert "--into is for --markdown: name the file that" in capsys.readouterr().err


def test_command_writes_markdown(record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "speed.json"
    results.write_text(json.dumps(record))
    assert command.main(["--markdown", str(results)]) == 0
    assert "| 2x3x9x8, 2x2/2 |" in capsys.readouterr().out
    assert command.main(["--shapes", "1x2"]) == 1
    assert "expected shapes" in capsys.readouterr().err


def test_command_of_the_lab(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from empool.lab.cli import main

    path = tmp_path / "speed.json"
    wanted = ["--only", "rank_draw 2x2/2 contiguous float16", "--shapes", "1x2x4x4", "--seconds", "0.001"]
    assert main(["bench", "--json", str(path), *wanted]) == 0
    record = json.loads(path.read_text())
    assert [row["contestant"] for row in record["rows"]] == [cases.TWIN, "rank_draw", cases.COPY]
    assert record["command"].startswith("empool bench --json")
    assert main(["bench", "--only", "triangle"]) == 1
    assert 'no case has all the words "triangle"' in capfd.readouterr().err


def test_runs_with_nothing_but_torch() -> None:
    """Where the lab's packages are missing, the bench must not import them."""
    program = (
        "import sys, runpy\n"
        "for name in ('rich', 'typer', 'numpy', 'lightning', 'matplotlib', 'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import empool.bench.worker\n"
        "sys.argv = ['bench', '--help']\n"
        "runpy.run_module('empool.bench', run_name='__main__', alter_sys=True)\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--markdown FILE" in run.stdout
