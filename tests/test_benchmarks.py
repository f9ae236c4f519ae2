"""The scripts in benchmarks/: what they compute from what was measured."""

import json
import math
import mmap
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from cases import chosen

from connection_utils import ConnectionDataset
from connection_utils.config import RECIPES, TrainingConfig
from connection_utils.ground.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import compare_sentence_transformers as compare
import cost_as_work_grows as growth
import draw_comparison
import ladder
import measuring
import on_a_gpu
import planted_faults
import processes_share_the_work
import sweep
import teacher
import transfer
import where_the_time_goes

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
SCRIPTS = [compare, draw_comparison, growth, ladder, on_a_gpu, planted_faults,
           processes_share_the_work, sweep, teacher, transfer, where_the_time_goes]
MEASURED = ["ours", "theirs", "theirs_by_length", "encode_ours", "encode_ours_int8",
            "encode_theirs", "theirs_cosent"]


def turn(ours, theirs):
    """A turn in which ours does `ours` pairs a second, and theirs `theirs`."""
    def trained(speed, memory):
        return {"pairs_per_s": speed, "seconds": 100 / speed, "peak_memory_mib": memory,
                "curve": [[25 / speed, 86.5], [50 / speed, 86.6], [100 / speed, 87.1]],
                "dev_spearman": 87.1}

    return {task: {"sentences_per_s": {"encode_ours": 300, "encode_theirs": 200}.get(task, 700),
                   "dev_spearman": 86.6} if task.startswith("encode")
            else trained(ours, 500) if "ours" in task else trained(theirs, 1000)
            for task in [*compare.TASKS, "ours_bf16", "theirs_bf16"]}


def test_each_planted_fault_has_its_place():
    for fault in planted_faults.FAULTS:
        assert fault.old in (ROOT / fault.file).read_text(encoding="utf-8"), fault
        assert fault.old != fault.new


def test_a_comparison_that_was_killed_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    whole, output, measured = turn(40, 20), tmp_path / "compared.json", []

    def measure(task, pairs, seed):
        if len(measured) == len(compare.TASKS) + 2:
            raise KeyboardInterrupt
        measured.append((seed, task))
        return whole[task]

    monkeypatch.setattr(compare, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["compare", "--pairs", "9", "--repeats", "2", "--output",
                                      str(output)])
    with pytest.raises(KeyboardInterrupt):
        compare.main()
    kept = json.loads(output.read_text())
    assert [len(turn) for turn in kept["turns"]] == [len(compare.TASKS), 2]
    assert kept["dev_spearman_ours"] == {"median": 87.1, "min": 87.1, "max": 87.1}
    measured.clear()
    compare.main()
    assert measured == [(2, task) for task in list(compare.TASKS)[2:]]
    assert json.loads(output.read_text())["turns"] == 2 * [
        {task: whole[task] for task in compare.TASKS}]
    measured.clear()
    with pytest.raises(KeyboardInterrupt):           # it has ended: the next call begins anew
        compare.main()
    assert measured[:2] == [(1, "ours"), (1, "theirs")]


def test_ratios_are_formed_within_a_turn_ours_over_theirs():
    """A machine that slows down from one turn to the next slows both."""
    found = compare.ratios([turn(40, 20), turn(20, 10), turn(60, 20)])
    for name in ("both_shuffled", "both_by_length", "both_bf16"):
        assert found[f"train_ratio_{name}"] == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert found["encode_ratio_fp32"]["median"] == 1.5
    assert found["encode_ratio_int8"]["median"] == 3.5
    assert found["dev_spearman_encode_ours_int8"]["median"] == 86.6
    assert found["peak_memory_ratio"]["median"] == 0.5
    assert found["seconds_to_86.6_ours"] == {"median": 50 / 40, "min": 50 / 60, "max": 50 / 20}
    assert found["seconds_to_87.1_theirs_cosent"]["median"] == 100 / 20


def test_a_cpu_without_bfloat16_has_all_but_its_rows():
    turns = [{task: found for task, found in turn(40, 20).items() if "bf16" not in task}] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "TASKS", dict.fromkeys(turns[0]))
        found = compare.ratios(turns)
    assert "train_ratio_both_bf16" not in found and found["train_ratio_both_shuffled"]


def test_a_target_that_is_not_reached_takes_for_ever():
    """A faster run to a worse model would be no time to quality at all."""
    missed = turn(40, 20)
    missed["ours"]["curve"][-1][1] = 87.09
    found = compare.ratios([turn(40, 20), missed, turn(40, 20)])["seconds_to_87.1_ours"]
    assert found == {"median": 2.5, "min": 2.5, "max": math.inf}


def test_what_is_kept_is_strict_json(tmp_path):
    """No `Infinity`, which only Python would read; and no NaN at all."""
    kept = tmp_path / "kept.json"
    measuring.keep(kept, "x.py --a 1", ratio={"median": 2.0, "max": math.inf},
                   turns=[{"seconds": 3.0}])
    record = json.loads(kept.read_text(), parse_constant=pytest.fail)
    assert record["ratio"] == {"median": 2.0, "max": None}
    assert record["turns"] == [{"seconds": 3.0}]
    assert record["command"] == "python benchmarks/x.py --a 1" and record["machine"]["cores"]
    if (ROOT / ".git").exists():                       # a bundle has none
        assert re.fullmatch(r"[0-9a-f]{40}( with changes)?", record["commit"])
    measuring.keep(kept, "x.py", ratio=math.nan, turns=[(1.0, -math.inf)])
    record = json.loads(kept.read_text(), parse_constant=pytest.fail)
    assert record["ratio"] is None and record["turns"] == [[1, None]]


@pytest.mark.parametrize("cpuinfo", [None, "processor\t: 0\nBogoMIPS\t: 243.75\n"])
def test_a_result_is_kept_on_a_system_that_says_little(monkeypatch, tmp_path, cpuinfo):
    """macOS has no /proc/cpuinfo, ARM's names no model; without git there is no commit."""
    monkeypatch.setattr(measuring, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    measuring.keep(tmp_path / "kept.json", "x.py", seconds=1)
    record = json.loads((tmp_path / "kept.json").read_text())
    assert record["machine"]["cpu"] and record["machine"]["vnni"] is None
    assert record["commit"] is None and record["seconds"] == 1


def test_both_train_on_the_same_pairs_of_all_genres():
    one, same = (compare._splits(300, 4)["train"] for _ in range(2))
    assert one.equals(same) and len(one) == 300 and one["genre"].nunique() == 3
    assert not one.equals(compare._splits(300, 5)["train"])


def two_at_a_time(call, cases):
    """A future for each case; `call` starts a process that mostly imports: a core each."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        return {case: pool.submit(call, case) for case in cases}


@pytest.fixture(scope="module")
def measured(request):
    """What each of `MEASURED` that is wanted finds."""
    return two_at_a_time(lambda task: compare.measure(task, pairs=32, seed=1),
                         chosen(request, "task"))


@pytest.mark.slow
@pytest.mark.parametrize("task", MEASURED)
def test_a_task_measures_in_a_process_of_its_own(measured, task):
    found = measured[task].result()
    assert 60 < found["dev_spearman"] < 95
    if not task.startswith("encode"):
        assert found["pairs_per_s"] * found["seconds"] == pytest.approx(32)
        assert found["peak_memory_mib"] > 100
        (seconds, reached), = found["curve"][-1:]
        assert 0 < seconds <= found["seconds"] and reached == found["dev_spearman"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_says_what_is_measured_and_how_it_is_called(monkeypatch, capsys, script):
    monkeypatch.setattr(sys, "argv", [script.__file__, "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    said = capsys.readouterr().out
    assert script.__doc__.strip() in said
    called = script.__doc__.split("python benchmarks/")[1].split()[0]
    assert called == f"{script.__name__}.py"
    assert called in (ROOT / "benchmarks" / "README.md").read_text()


def test_the_comparison_is_drawn_from_what_was_measured():
    figure = draw_comparison.draw({"turns": [turn(40, 20), turn(20, 10), turn(60, 20)]})
    training, encoding, quality = figure.axes
    said = [text.get_text().strip() for ax in figure.axes for text in ax.texts]
    assert said == ["40", "20"] * 3 + ["700", "300", "200"]
    assert [len(ax.patches) for ax in (training, encoding, quality)] == [6, 3, 0]
    assert [line.get_xdata()[-1] for line in quality.lines] == [5, 2.5, 5, 2.5]
    plt.close(figure)


def test_matrix_products_are_recorded_forward_and_backward():
    """As torch's counter counts them, too: 2 · rows · inner · columns for each."""
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    layer = torch.nn.Linear(7, 8)
    with (where_the_time_goes.FlopCounterMode(display=False) as counter,
          where_the_time_goes.Recorder() as recorder):
        a @ b
        layer(torch.randn(9, 7, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 2 * 3 * 4 * 5 * 6 + 3 * (2 * 9 * 7 * 8)
    assert len(recorder.products) == 4 and recorder.seconds_alone() > 0


def test_the_parts_of_a_step_make_the_whole():
    found = where_the_time_goes.measure(2, TrainingConfig(batch_size=4))
    parts = found["parts"]
    assert set(parts) == {"making the batch", "forward", "loss", "backward", "clipping",
                          "optimizer", "rest"}
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(found["step_ms"])
    assert all(part["ms"] > 0 for name, part in parts.items() if name != "rest")
    products = found["matrix_products"]
    assert products["gflop_per_s_in_training"] == pytest.approx(
        products["share_of_step"] * products["gflop_per_s_alone"])


def test_encoding_is_mostly_matrix_products():
    found = where_the_time_goes.encoding(130)
    assert 0 < found["share_of_tokenizing"] < found["share_of_matrix_products"] < 1
    assert found["gflop_per_s_alone"] > 1 and found["texts_per_s"] > 0


def test_memory_is_read_from_the_imports_to_the_peak():
    found = where_the_time_goes.memory(1)
    assert 0 < found["imports"] <= found["with_model_and_pairs"] <= found["peak"]
    assert found["gradients_and_moments"] == 3 * found["weights"] > 200


def test_padding_is_least_in_buckets_and_never_below_the_texts_own():
    found = where_the_time_goes.padding(16, 12)
    assert found["own"] < found["buckets_by_length"] < found["shuffled_only"] < 256


def test_an_epoch_is_computed_from_the_steps_that_were_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "STEPS", 2)
    monkeypatch.setattr(growth, "WARM", 1)
    found = growth.training(64, tmp_path)
    assert found["seconds"] == pytest.approx(found["timed_seconds"] * 64 / (2 * 16))
    assert found["pairs_per_s"] * found["seconds"] == pytest.approx(64)


def test_reading_is_timed_and_its_table_weighed(tmp_path):
    few, many = (growth.reading(count, tmp_path) for count in (100, 2000))
    assert 0 < few["seconds"]
    assert many["table_mb"] == pytest.approx(20 * few["table_mb"], rel=0.1)


def test_the_median_of_the_turns_counts_and_the_most_memory():
    found = growth.summed_up([{"seconds": seconds, "memory_mb": memory, "pairs": 7}
                              for seconds, memory in ((3, 1), (9, 5), (4, 2))])
    assert found == {"seconds": 4, "memory_mb": 5, "pairs": 7, "turns": [3, 9, 4]}


def test_each_part_is_drawn_beside_its_line_of_constant_speed():
    sizes = [{"pairs": pairs, "seconds": pairs / 50, "memory_mb": pairs / 1e6}
             for pairs in (1000, 10_000)]
    figure = growth.draw({part: sizes for part in growth.PARTS})
    time_ax, memory_ax = figure.axes
    assert [line.get_ydata().tolist() for line in time_ax.lines] == [[20, 200]] * 8
    assert [line.get_label() for line in memory_ax.lines] == [*growth.PARTS]
    plt.close(figure)


def test_the_peak_is_the_most_that_was_held():
    """Pages of its own: an allocator may hand out what the process has held for long."""
    with growth.Peak() as peak:
        before = growth.anonymous_mb()
        with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE) as held:
            for _ in range(64):
                held.write(bytes(1 << 20))
            time.sleep(4 * growth.SECONDS)
    assert 63 < peak.mb - before < 83


def test_the_memory_of_a_few_pairs_is_measured(tmp_path):
    found = growth.tokenizing(300, tmp_path)
    assert 20 < found["tokens_per_pair"] < 40
    in_arrays = 300 * (4 * found["tokens_per_pair"] + 2 * 8 + 8) + 2 * 8
    assert found["arrays_mb"] == pytest.approx(in_arrays / 1e6)
    assert found["memory_mb"] < 20


@pytest.mark.slow
def test_a_genre_left_out_is_not_trained_on(monkeypatch):
    seen = []

    def watched(model, train_set, dev, config):
        seen.append((len(train_set), set(dev["genre"])))
        return transfer.train_for_real(model, train_set.sample(0.01, 1), dev, config)

    monkeypatch.setattr(transfer, "train_for_real", transfer.train, raising=False)
    monkeypatch.setattr(transfer, "train", watched)
    monkeypatch.setattr(transfer, "ConnectionDataset",
                        lambda pairs, tokenizer: seen.append(set(pairs["genre"]))
                        or ConnectionDataset(pairs, tokenizer))
    monkeypatch.setitem(transfer.RECIPES, "post", replace(
        RECIPES["post"], epochs=1, evaluations_per_epoch=1))
    monkeypatch.setattr(transfer, "START_SHARES", (0.0, 0.999999))
    found = transfer.leave_out("forum", "post", 1)
    others = {"main-news", "main-captions"}
    assert seen == [others, (found["train_pairs"], others)]
    assert (found["train_pairs"], found["unseen_pairs"]) == (5275, 375)
    assert found["before"]["unseen"] == pytest.approx(80.8, abs=0.1)
    trained, nearly_the_start = found["after"]
    for name, before in found["before"].items():
        assert abs(trained[name] - before) > 0.01
        assert nearly_the_start[name] == pytest.approx(before, abs=0.01)


def test_the_page_says_where_the_time_goes_as_measured():
    kept = json.loads((ROOT / "benchmarks/results/where_the_time_goes.json").read_text())
    page = " ".join((ROOT / "benchmarks/README.md").read_text().split())
    full, frozen, bf16, tokens, memory = (kept[name] for name in (
        "full", "frozen_embeddings", "bf16", "tokens_per_pair", "memory_mib"))
    share, halved = ({part: f"{100 * spent['share']:.0f} %" for part, spent
                      in kind["parts"].items()} for kind in (full, bf16))
    products = {name: kept[name]["matrix_products"] for name in ("full", "by_length", "bf16")}
    reached, sorted_, in_bf16 = (100 * found["share_of_forward_and_backward"]
                                 for found in products.values())
    speeds = [products[name]["gflop_per_s_alone"] for name in ("full", "bf16")]
    anyhow = memory["with_model_and_pairs"] + memory["gradients_and_moments"]
    for said in (f"16 pairs take {full['step_ms']:.0f} ms", f"{share['forward']} forward",
                 f"{share['backward']} backward", f"{share['optimizer']} AdamW",
                 f"{share['clipping']} clipping", f"would take {reached:.0f} % of",
                 f"hold {tokens['shuffled_only']:.1f} tokens",
                 f"would hold {tokens['buckets_by_length']:.1f})",
                 f"only {tokens['own']:.1f} of them", f"({sorted_:.0f} % with batches",
                 f"step takes {frozen['step_ms']:.0f} ms",
                 f"In bfloat16 a step took {bf16['step_ms']:.0f} ms: {halved['forward']} forward, "
                 f"{halved['backward']} backward", f"alone would take {in_bf16:.0f} % of both",
                 f"{speeds[1] / speeds[0]:.1f} times as fast, at {speeds[1]:.0f} billion operations "
                 f"per second instead of {speeds[0]:.0f}",
                 f"{100 * kept['encoding']['share_of_matrix_products']:.0f} % of the time of `encode`",
                 f"{memory['peak']:,.0f} MiB that 60 training steps", f"{anyhow:.0f} are there",
                 f"imports ({memory['imports']:.0f})"):
        assert said in page, said
    assert min(reached, sorted_) >= 0.7


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_kept_results_tell_command_machine_and_versions(path):
    kept = json.loads(path.read_text())
    assert kept["command"].startswith("python benchmarks/") and kept["date"]
    borrowed = path.stem == "on_a_gpu"                # where torch is what it is, from 2.11 on
    assert kept["machine"]["cpu"] and kept["machine"]["versions"]["torch"].startswith(
        "2." if borrowed else "2.13")
    assert not kept.get("smoke")
    if "turns" in kept:
        found = compare.ratios(kept["turns"])
        assert found == {name: kept[name] for name in found}


@pytest.fixture(scope="module")
def compared():
    return json.loads((ROOT / "benchmarks/results/compare_sentence_transformers_1500.json"
                       ).read_text())


def test_the_page_shows_the_comparison_as_measured(compared):
    page = " ".join((ROOT / "benchmarks/README.md").read_text().split())
    rows = {"(both defaults)": "train_ratio_both_shuffled",
            "(theirs are given ours)": "train_ratio_both_by_length",
            "bfloat16 on both sides, shuffled": "train_ratio_both_bf16",
            "encoding, fp32": "encode_ratio_fp32",
            "int8=True)`, their fp32": "encode_ratio_int8",
            "training (lower is better)": "peak_memory_ratio"}
    for said, key in rows.items():
        found = compared[key]
        row = f"{found['median']:.2f} | {found['min']:.2f} to {found['max']:.2f} |"
        assert f"{said} | {row}" in page, (said, row)
    change = (compared["dev_spearman_encode_ours_int8"]["median"]
              - compared["dev_spearman_encode_ours"]["median"])
    assert f"int8 changed dev Spearman by {change:+.2f} points" in page


def test_the_page_shows_the_seconds_to_each_target(compared):
    page = " ".join((ROOT / "benchmarks/README.md").read_text().split())

    def told(found):
        middle, low, high = ("never" if found[name] is None else f"{found[name]:.0f}"
                             for name in ("median", "min", "max"))
        return f"{middle} ({low} to {high})"

    for whose in ("ours", "theirs", "ours_cosent", "theirs_cosent"):
        row = " | ".join(told(compared[f"seconds_to_{target}_{whose}"])
                         for target in compare.TARGETS)
        end = compared[f"dev_spearman_{whose}"]["median"]
        assert f"| {row} | {end:.2f} |" in page, (whose, row, end)


def test_the_comparison_that_is_kept_is_no_slower_than_was_promised(compared):
    assert len(compared["turns"]) == 5
    assert compared["train_ratio_both_shuffled"]["median"] >= 1.5              # like with like
    assert compared["train_ratio_both_by_length"]["median"] >= 1.0
    assert compared["encode_ratio_fp32"]["median"] >= 1.1
    assert compared["peak_memory_ratio"]["median"] <= 0.9


def test_what_bfloat16_costs_is_told_as_measured(compared):
    found = {}
    for line in (ROOT / "benchmarks/results/sweep_precisions.jsonl").read_text().splitlines():
        line = json.loads(line)
        config = line["run"]["config"]
        found.setdefault(config["precision"], {})[config["seed"]] = line["dev_spearman"]
    changes = [found["bf16"][seed] - found["fp32"][seed] for seed in range(1, 6)]
    mean, half = statistics.mean(changes), 2.776 * statistics.stdev(changes) / 5 ** 0.5
    interval = f"{mean - half:+.2f} to {mean + half:+.2f}".replace("-", "−")
    gain = compared["train_ratio_ours_bf16_to_fp32"]
    page, commands = (" ".join((ROOT / name).read_text().split())
                      for name in ("benchmarks/README.md", "docs/commands.md"))
    for page in (page, commands):
        assert f"{mean:+.2f} (95 % interval".replace("-", "−") in page and interval in page
    assert f"ran {gain['median']:.1f} times as fast" in commands


PARTS = pytest.mark.parametrize("part", growth.PARTS)


@pytest.fixture(scope="module")
def grown():
    return json.loads((ROOT / "benchmarks/results/cost_as_work_grows.json").read_text())


@PARTS
def test_cost_grows_as_the_pairs_do(grown, part):
    """From 10,000 pairs on; below, what each call does once counts, too."""
    sizes = grown[part]
    assert [size["pairs"] for size in sizes] == [1000, 10_000, 100_000, 1_000_000]
    per_pair = [size["seconds"] / size["pairs"] for size in sizes]
    page = " ".join((ROOT / "benchmarks/README.md").read_text().split())
    most = max(per_pair[1:]) / min(per_pair[1:])
    if part == "reading":
        assert (f"{1e6 * per_pair[1]:.0f} µs a pair for 10,000 and {1e6 * per_pair[3]:.0f} for "
                "1,000,000" in page)
    else:
        assert most <= 1.15 and f"{100 * (most - 1):.0f} % " in page
    assert most <= 1.25
    assert grown["most_over_least_seconds_per_pair"][part] == pytest.approx(
        max(per_pair) / min(per_pair))


def test_memory_is_flat_for_scoring_and_little_for_training(grown):
    _, few, _, many = (size["memory_mb"] for size in grown["scoring"])
    assert many / few <= 1.15
    assert grown["training"][-1]["memory_mb"] <= 200


@PARTS
def test_the_page_has_the_costs_as_measured(grown, part):
    page = " ".join((ROOT / "benchmarks/README.md").read_text().split())
    seconds = " | ".join(f"{size['seconds']:,.2f}" if size["seconds"] < 10
                         else f"{size['seconds']:,.0f}" for size in grown[part])
    assert f"| {seconds} | {grown[part][-1]['memory_mb']:.0f} |" in page
