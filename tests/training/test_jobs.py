"""Whole trainings: they learn, resume exactly, and do the same on one process and on two."""

import pandas as pd
import pytest
import torch
from training.helpers import encodings_noted

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, read_table, write_json, write_table
from r2ec_lib.model import R2ec
from r2ec_lib.model.backbone import add_lora, quiet
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.model.tiny import build_tiny
from r2ec_lib.training import jobs
from r2ec_lib.training.item_action import parts_of
from r2ec_lib.training.judgements import normalise
from r2ec_lib.training.trainer import RecPOConfig, RecPOTrainer

SETTINGS = {
    "seed": 3,
    "num_generations": 2,
    "max_steps": 4,
    "eval_steps": 2,
    "max_completion_length": 5,
    "learning_rate": 5e-3,
    "rollout_steps": 1,
    "refresh_steps": 3,
    "use_cpu": True,
}


@pytest.fixture
def run(tiny, samples, tmp_path):
    """A run folder that is ready to train: samples with a validation part, a start, a job."""

    def prepare(name, settings=None, batch_users=4, num_processes=1):
        folder = tmp_path / name
        split = ["train"] * 36 + ["valid"] * 12
        write_table(samples.assign(split=split), folder / "data" / "samples.parquet")
        tiny.lm.float()
        tiny.save(folder / "training" / "start")
        chosen = {name: value for name, value in {**SETTINGS, **(settings or {})}.items() if value is not None}
        jobs.write_job(folder, chosen, batch_users=batch_users, num_processes=num_processes, patience=9)
        return folder

    return prepare


def adapted(tiny, base, layers=0):
    """The language model of `tiny` with adapters in its last `layers`, or in all; its backbone saved in `base`."""
    tiny.lm.float().save_pretrained(base)
    tiny.tokenizer.save_pretrained(base)
    tiny.lm.name_or_path = str(base)
    return add_lora(tiny.lm, rank=2, alpha=8, layers=layers)


def train_until_interrupted(folder, *place):
    """Trains in a run folder, and is interrupted in its third step."""

    def stop(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.train(folder, lambda line: None, *place, show=stop)


def outcome(folder) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, torch.Tensor]]:
    log = read_table(folder / "training" / "log.parquet")
    timed = [name for name in log if "second" in name or "memory" in name]
    weights = {name: weight.detach() for name, weight in R2ec.load(folder / "model").lm.named_parameters()}
    return log.drop(columns=timed), read_table(folder / "training" / "rollouts.parquet"), weights


def test_a_killed_training_resumes_to_the_same_metrics_and_weights(run):
    whole, broken = run("whole"), run("broken")
    jobs.train(whole, report=lambda line: None)
    lines = []

    def stop_after_the_first_validation(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.train(broken, lines.append, show=stop_after_the_first_validation)
    jobs.train(broken, report=lines.append)
    assert "resumed at step 2 of 4" in lines
    for one, other in zip(outcome(whole)[:2], outcome(broken)[:2], strict=True):
        pd.testing.assert_frame_equal(one, other)
    weights = outcome(whole)[2]
    assert all(torch.equal(weights[name], other) for name, other in outcome(broken)[2].items())
    assert not (broken / "training" / "checkpoints").exists()


@pytest.mark.parametrize("spoiled", [False, True], ids=["to its end", "until it meets NaN"])
def test_a_run_folder_that_is_moved_keeps_its_checkpoints_and_its_model(run, monkeypatch, spoiled):
    settings = {"learning_rate": 0.05}  # the second validation is no better
    whole, broken = run("whole", settings), run("broken", settings)
    jobs.train(whole, report=lambda line: None)
    train_until_interrupted(broken)
    lines, moved, job = [], broken.with_name("moved"), {"batch_users": 4, "num_processes": 1, "patience": 9}
    broken.rename(moved)
    jobs.write_job(moved, {**SETTINGS, **settings}, **job)
    if spoiled:
        spoil(monkeypatch, step=3)
    jobs.train(moved, lines.append)
    assert "resumed at step 2 of 4" in lines
    expected, (log, _, weights) = outcome(whole)[2], outcome(moved)
    assert log["valid_ndcg@10"].idxmax() == 2
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
    again = moved.rename(moved.with_name("again"))
    jobs.write_job(again, {**SETTINGS, **settings}, **job)
    assert (again / "model").is_dir()


@pytest.mark.parametrize("patience", [9, 1])
def test_a_training_killed_after_its_last_checkpoint_makes_no_further_step(run, monkeypatch, patience):
    """Whether its steps are over, or its patience is."""
    whole, broken = (run(name, {"max_steps": 7, "learning_rate": 0.05}) for name in ("whole", "broken"))
    for folder in (whole, broken):
        job = read_json(folder / "training" / "job.json")
        write_json({**job, "patience": patience}, folder / "training" / "job.json")
    jobs.train(whole, report=lambda line: None)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(R2ec, "save", stopped)
        jobs.train(broken, report=lambda line: None)
    jobs.train(broken, report=lambda line: None)
    for one, other in zip(outcome(whole)[:2], outcome(broken)[:2], strict=True):
        pd.testing.assert_frame_equal(one, other)
    weights = outcome(whole)[2]
    assert all(torch.equal(weights[name], other) for name, other in outcome(broken)[2].items())
    assert len(outcome(whole)[0]) == 1 + {9: 7, 1: 4}[patience]  # the start; the second validation is no better


@pytest.mark.parametrize("layers", [None, 1], ids=["all weights", "last layer"])
def test_the_item_table_of_mixed_precision_is_that_of_the_saved_model(run, tiny, tmp_path, layers):
    if layers:  # what the frozen layers below say of items is kept during training
        tiny.lm = adapted(tiny, tmp_path / "base", layers)
    folder = run("mixed", {"bf16": True, "max_steps": 2})
    jobs.train(folder, report=lambda line: None)
    model = R2ec.load(folder / "model")
    assert torch.allclose(model.encode_items(model.catalogue), model.head.table, atol=1e-5)


def test_a_training_does_not_encode_a_catalogue_whose_table_came_with_its_start(run, tiny):
    folder = run("one", {"max_steps": 1, "eval_steps": 1})
    with encodings_noted() as noted:
        jobs.train(folder, report=lambda line: None)
    cards = {tuple(ids) for ids in tiny.prompts.item_ids(tiny.catalogue)}
    assert sum(ids in cards for ids in noted) <= 4 + 2 * len(cards)  # targets, the validation, the weights that stay


@pytest.mark.parametrize("adapters", [False, True])
def test_learned_item_vectors_are_trained_resumed_and_saved_as_the_item_table_alone(run, tiny, tmp_path, adapters):
    if adapters:
        tiny.lm = adapted(tiny, tmp_path / "base")
    whole, broken = (run(name, {"item_vectors": "learned", "beta": 0.01}) for name in ("whole", "broken"))
    jobs.train(whole, report=lambda line: None)
    train_until_interrupted(broken)
    jobs.train(broken, report=lambda line: None)
    one, other, start = (R2ec.load(folder) for folder in (whole / "model", broken / "model", whole / "training/start"))
    assert torch.equal(one.head.table, other.head.table) and "item_vectors" not in dict(one.lm.named_parameters())
    drawn = (one.head.table - start.encode_items(start.catalogue)).abs().mean()
    assert drawn > 0.1 * start.head.table.std()  # no encoding of the texts


def test_the_control_trains_beside_the_model_and_resumes_on_its_own(run):
    folder = run("both", {"item_warmup_steps": 1})
    control = {"folder": "training/item_only", "model": "model_item_only"}
    job = {"batch_users": 4, "num_processes": 1, "patience": 9}
    jobs.write_job(folder, jobs.item_only({**SETTINGS, "item_warmup_steps": 1}), **job, **control)
    jobs.train(folder, report=lambda line: None)
    main = (folder / "training" / "log.parquet").read_bytes()
    train_until_interrupted(folder, control["folder"])
    assert not (folder / "model_item_only").exists()
    lines = []
    jobs.train(folder, lines.append)
    jobs.train(folder, lines.append, control["folder"])
    assert lines[0] == "already trained: model" and lines[1] == "resumed at step 2 of 4"
    assert (folder / "training" / "log.parquet").read_bytes() == main
    log = read_table(folder / "training" / "item_only" / "log.parquet")
    assert log["step"].tolist() == [0, 1, 2, 3, 4]
    apart = zip(*(R2ec.load(folder / name).lm.parameters() for name in ("model", "model_item_only")), strict=True)
    assert any(not torch.equal(one, other) for one, other in apart)


def test_a_finished_training_is_made_anew_where_its_job_start_or_data_have_changed(run, tiny):
    folder = run("again")
    jobs.train(folder, report=lambda line: None)
    jobs.write_job(folder, SETTINGS, batch_users=4, num_processes=1, patience=9)
    assert (folder / "model").is_dir()
    jobs.write_job(folder, {**SETTINGS, "epsilon": 0.1}, batch_users=4, num_processes=1, patience=9)
    assert not (folder / "model").exists()
    jobs.train(folder, report=lambda line: None)
    tiny.head.table += 1
    tiny.save(folder / "training" / "start")
    jobs.write_job(folder, {**SETTINGS, "epsilon": 0.1}, batch_users=4, num_processes=1, patience=9)
    assert not (folder / "model").exists()
    jobs.train(folder, report=lambda line: None)
    tiny.head.temperature = 0.5
    tiny.save(folder / "training" / "start")
    jobs.write_job(folder, {**SETTINGS, "epsilon": 0.1}, batch_users=4, num_processes=1, patience=9)
    assert not (folder / "model").exists()


def test_what_was_trained_is_made_anew_where_the_scale_of_the_adapters_has_changed(run, tiny, tmp_path):
    """Adapters that have just been added do nothing yet, so no weight and no item vector tells their scale."""
    tiny.lm = adapted(tiny, tmp_path / "base")
    folder, kept, parts = run("scale"), [], []
    for alpha in (8, 8, 64):
        tiny.lm.peft_config["default"].lora_alpha = alpha
        tiny.save(folder / "training" / "start")
        (folder / "model").mkdir(exist_ok=True)
        jobs.write_job(folder, SETTINGS, batch_users=4, num_processes=1, patience=9)
        kept.append((folder / "model").is_dir())
        parts.append(parts_of(folder / "training" / "start"))
    assert kept == [True, True, False]
    assert parts[0] == parts[1] != parts[2]


def test_judgements_are_weighed_as_a_reward_of_their_own_and_a_weight_without_any_is_refused(run, tiny):
    folder = run("judged")
    job = {"batch_users": 4, "num_processes": 1, "patience": 9}
    with pytest.raises(DataError, match="no reasoning was accepted or rejected"):
        jobs.write_job(folder, {**SETTINGS, "judged_weight": 0.5}, **job)
    jobs.train(folder, report=lambda line: None)
    plain = read_table(folder / "training" / "rollouts.parquet")
    worst = plain[plain["step"] == 0].sort_values("reward").iloc[0]
    judged = {normalise(worst["chain"]): 1}
    settings = {**SETTINGS, "judged_weight": 0.5}
    jobs.write_job(folder, settings, **job, judged=judged)
    jobs.train(folder, report=lambda line: None)
    log, found = (read_table(folder / "training" / f"{name}.parquet") for name in ("log", "rollouts"))
    same = found[(found["step"] == 0) & (found["chain"] == worst["chain"])].iloc[0]
    assert same["reward"] == pytest.approx(worst["reward"] + 0.5) and log["reward_judged"].iloc[1] > 0


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run):
    tables = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        folder = run(name, {"seed": seed})
        jobs.train(folder, report=lambda line: None)
        tables.append(outcome(folder)[0])
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["reward"].equals(tables[2]["reward"])


@pytest.mark.parametrize("readout", ["last", "alone"])
def test_two_processes_make_the_update_of_one(run, tiny, readout):
    """The same global batch: in-batch targets, groups and gradients are gathered. Greedy sampling makes it exact. One
    of the three groups has a trajectory in either process, so they hold different numbers of marked ones."""
    tiny.head.readout = readout
    settings = {"item_warmup_steps": 1} | {
        "max_steps": 2,
        "eval_steps": 2,
        "top_k": 1,
        "optim": "sgd",
        "item_advantage": "unit",
    }
    settings |= {"length_handling": "sum", "learning_rate": 0.05, "max_grad_norm": 100.0}
    one, two = (
        run("one", settings, batch_users=3),
        run("two", {**settings, "use_cpu": None}, batch_users=3, num_processes=2),
    )  # no GPU here: the CPU
    lines, rows = [], []
    jobs.launch(one, report=lambda line: None)
    jobs.launch(two, report=lines.append, show=rows.append)
    before = dict(R2ec.load(one / "training" / "start").lm.named_parameters())
    single, double = outcome(one)[2], outcome(two)[2]
    assert any(line.startswith("step     2") for line in lines) and [row["step"] for row in rows] == [0, 1, 2, 2]
    assert not any(line.startswith("row ") for line in lines)
    for name, weight in single.items():
        assert torch.allclose(weight, double[name], atol=1e-5), name
        assert not torch.equal(weight, before[name]), f"{name} did not move"


def test_a_machine_without_cuda_trains_on_its_cpu_even_where_it_has_another_accelerator(run, monkeypatch):
    """Apple's has no float64, in which ranks are."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_mps_available", lambda: True)
    folder = run("apple", {"use_cpu": None, "max_steps": 1, "eval_steps": 1})
    jobs.train(folder, report=lambda line: None)
    assert (folder / "model").is_dir()


def test_one_process_trains_on_one_gpu_where_a_machine_has_several(run, monkeypatch):
    made = RecPOConfig.__post_init__

    def made_on_two_gpus(self):
        made(self)
        self._n_gpu = 2

    monkeypatch.setattr(RecPOConfig, "__post_init__", made_on_two_gpus)
    folder = run("one", {"max_steps": 1, "eval_steps": 1})
    jobs.train(folder, report=lambda line: None)
    assert (folder / "model").is_dir()


def test_a_failing_worker_fails_the_launch_loudly(run):
    folder = run("broken", num_processes=2)
    (folder / "data" / "samples.parquet").unlink()
    with pytest.raises(RuntimeError, match=r"a training process failed(.|\n)*samples\.parquet"):
        jobs.launch(folder, report=lambda line: None)


def test_a_worker_that_dies_without_a_word_is_told_by_its_exit_status(run, monkeypatch):
    folder = run("silent", num_processes=2)
    monkeypatch.setattr(jobs.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="a training process failed: it ended with 1 and said nothing"):
        jobs.launch(folder, report=lambda line: None)


def test_of_what_processes_print_the_training_s_lines_and_rows_are_shown_and_the_log_keeps_all_lines(tmp_path):
    printed = [
        "[rank1]: a note",
        "step 1 of 2",
        'row {"step": 1}',
        "",
        "WARNING step 1",
        "checkpoint-3 is passed over",
    ]
    lines, rows = [], []
    with (tmp_path / "processes.log").open("w") as log:
        kept = jobs._streamed((f"{line}\n" for line in printed), log, lines.append, rows.append)
    assert lines == [printed[1], *printed[4:]] and rows == [{"step": 1}]
    assert (tmp_path / "processes.log").read_text().splitlines() == kept == [*printed[:2], *printed[3:]]


REFUSED = {
    "an uneven batch": (
        {},
        {"batch_users": 5, "num_processes": 4},
        r"5 users × 2 trajectories = 10 rows cannot be split",
    ),
    "too many parts": (
        {"gradient_accumulation_steps": 4},
        {"batch_users": 3, "num_processes": 2},
        r"= 6 rows cannot be ",
    ),
    "an empty batch": ({}, {"batch_users": 0}, r"a step of 0 users"),
    "fewer samples than a step": (
        {},
        {"batch_users": 37},
        r"no step: there are 36 training samples.* takes 37 ",
    ),
    "no steps and no epochs": ({"max_steps": 0, "num_train_epochs": 0}, {}, r"no step: max_steps is 0"),
    "an unknown estimator": ({"estimator": "grop"}, {}, r"estimator is 'grop'; expected one of"),
    "greedy sampling": ({"temperature": 0}, {}, r"temperature is 0; .*expected a number above 0"),
    "one trajectory": ({"num_generations": 1}, {}, r"at least 2 generations"),
    "vLLM without vLLM": ({"use_vllm": True}, {}, r"vLLM is not installed; install the extra `vllm`"),
    "an unknown optimiser": ({"optim": "adamw_tocrh"}, {}, r"adamw_tocrh is not a valid OptimizerNames"),
    "an unknown schedule": ({"lr_scheduler_type": "linaer"}, {}, r"linaer is not a valid SchedulerType"),
    "an unknown field": ({"learning_rat": 1}, {}, r"unexpected keyword argument 'learning_rat'"),
    "learned vectors in two processes": (
        {"item_vectors": "learned"},
        {"num_processes": 2},
        r"trains on one process, and num_processes is 2",
    ),
    "checkpoints within a rollout": ({"num_iterations": 3}, {}, r"each rollout serves 3 steps, and eval_steps is 2"),
    "an optimiser of bitsandbytes": (
        {"optim": "paged_adamw_8bit"},
        {},
        r"optim is 'paged_adamw_8bit', .* extra `gpu`",
    ),
    "no judgements to weigh": ({"judged_weight": 0.5}, {}, r"no reasoning was accepted or rejected"),
}


@pytest.mark.parametrize(("settings", "sizes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_fail_or_train_nothing_is_refused_when_the_job_is_written(
    run, monkeypatch, settings, sizes, message
):
    folder = run("refused")
    (folder / "training" / "job.json").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    job = {"batch_users": 4, "num_processes": 1, "patience": 9}
    with pytest.raises(DataError, match=message):
        jobs.write_job(folder, {**SETTINGS, **settings}, **{**job, **sizes})
    assert not (folder / "training" / "job.json").exists()


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, {"batch_users": 36}),
        ({"max_steps": -1, "num_train_epochs": 0.1}, {}),
        ({"gradient_accumulation_steps": 2}, {"batch_users": 4, "num_processes": 4}),
        ({"num_generations": 8}, {"batch_users": 1, "num_processes": 8}),
    ],
)
def test_settings_that_make_a_step_pass_the_check(settings, sizes):
    usual = {"batch_users": 4, "num_processes": 1, "train_samples": 36}
    jobs.check_settings({**SETTINGS, **settings}, **{**usual, **sizes})


def test_a_training_that_made_no_step_saves_nothing(run, monkeypatch):
    folder = run("still")
    monkeypatch.setattr(RecPOTrainer, "train", lambda self, resume_from_checkpoint: None)
    with pytest.raises(RuntimeError, match="made no step"):
        jobs.train(folder, report=lambda line: None)
    assert not (folder / "model").exists()


def spoil(monkeypatch, step):
    """The optimiser's step of this number gives a weight that is no number."""
    original = RecPOTrainer.training_step

    def spoiled(self, model, *rest):
        if self.state.global_step == step:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)
        return original(self, model, *rest)

    monkeypatch.setattr(RecPOTrainer, "training_step", spoiled)


def test_a_training_that_meets_nan_says_when_and_leaves_the_best_model_before_it(run, monkeypatch):
    folder, lines = run("spoiled", {"max_steps": 6}), []
    spoil(monkeypatch, step=5)
    jobs.train(folder, lines.append)
    warning = next(line for line in lines if line.startswith("WARNING"))
    assert "training ended: after step 5 (learning rate " in warning
    assert "last good checkpoint is that of step 4" in warning and "a lower learning rate" in warning
    log = read_table(folder / "training" / "log.parquet")
    assert log["step"].tolist() == [0, 1, 2, 3, 4, 5]
    best = int(log.loc[log["valid_ndcg@10"].idxmax(), "step"])
    assert f"the best one, of step {best} " in warning
    assert all(weight.isfinite().all() for weight in outcome(folder)[2].values())
    trained = R2ec.load(folder / "model")
    assert trained.head.table.isfinite().all()
    jobs.train(folder, lines.append)
    assert lines[-1] == "already trained: model"


def test_nan_before_any_checkpoint_is_an_error_that_names_step_and_rate_and_saves_no_model(run, monkeypatch):
    folder = run("spoiled")
    spoil(monkeypatch, step=0)
    with pytest.raises(RuntimeError, match=r"after step 0 \(learning rate 0\.005\).*before the first validation"):
        jobs.train(folder, report=lambda line: None)
    assert not (folder / "model").exists()
    assert not list((folder / "training").glob("checkpoints/checkpoint-*"))


def test_nan_that_no_validation_follows_is_not_saved(run):
    folder = run("spoiled", {"max_steps": 1, "learning_rate": 1e38})
    with pytest.raises(RuntimeError, match=r"after step 1 \(learning rate 1e\+38\)"):
        jobs.train(folder, report=lambda line: None)
    assert not (folder / "model").exists()


def rewards_of(tiny, samples, tmp_path, **choices) -> list[float]:
    usual = {"num_generations": 4, "max_completion_length": 3, "save_strategy": "no", "use_cpu": True, "seed": 0}
    usual |= {"logging_steps": 1, "learning_rate": 3e-3, "refresh_steps": 5, "shuffle_dataset": False}
    usual |= {"per_device_train_batch_size": 4 * len(samples)}
    trainer = RecPOTrainer(tiny, RecPOConfig(output_dir=str(tmp_path), **{**usual, **choices}), samples)
    quiet()
    trainer.train()
    return [row["reward"] for row in trainer.state.log_history if "reward" in row]


def test_one_batch_is_learned_until_the_reward_is_one(tokenizer, items, samples, tmp_path):
    lm = build_tiny(tokenizer, hidden_size=64, num_layers=2, num_heads=2, seed=1)
    model = R2ec(lm, Prompts(tokenizer, PromptStyle(instruct=False)), items)
    choices = {"item_advantage": "unit", "item_weight": 4.0, "relabel_top": 4, "catalogue_negatives": True}
    choices |= {"learning_rate": 1e-3, "refresh_steps": 1, "temperature": 0.3, "max_completion_length": 2}
    rewards = rewards_of(model, samples.drop_duplicates("target").head(3), tmp_path, max_steps=100, **choices)
    assert rewards[0] < 0.5 and sum(rewards[-5:]) / 5 > 0.9


def test_a_bandit_that_only_the_reasoning_can_win_is_won(tiny, samples, tmp_path):
    """States and items are frozen and the item action is off: only the choice of words can change the rank."""
    lm = tiny.lm.float()
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach().clone())
    for name, weight in lm.named_parameters():
        weight.requires_grad = name == "lm_head.weight"
    tiny.refresh()
    choices = {"item_weight": 0.0, "num_generations": 32, "per_device_train_batch_size": 32, "learning_rate": 3e-2}
    choices |= {"max_completion_length": 1, "reward_cutoff": 30, "lr_scheduler_type": "constant"}
    rewards = rewards_of(tiny, samples.iloc[[2]], tmp_path, max_steps=70, **choices)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.03  # one token can win 0.1 at most here


def test_a_bandit_that_only_the_item_action_can_win_is_won(tiny, samples, tmp_path):
    """The token terms are switched off: chains stay random."""
    tiny.lm.float()
    few = samples.drop_duplicates("target").head(6)
    rewards = rewards_of(tiny, few, tmp_path, max_steps=80, item_warmup_steps=80, catalogue_negatives=True)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


VARIANTS = {
    "KL to the start": {"beta": 0.1},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "several updates a rollout": {"num_iterations": 2},
    "micro-batches": {"gradient_accumulation_steps": 2},
    "length constant": {"length_handling": "constant"},
    "length sequence": {"length_handling": "sequence"},
    "length batch": {"length_handling": "batch"},
    "the two best": {"relabel_top": 2, "estimator": "rloo"},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_option_trains(run, settings):
    folder = run("variant", {"max_steps": 2, **settings})
    jobs.train(folder, report=lambda line: None)
    log, rollouts, weights = outcome(folder)
    before = dict(R2ec.load(folder / "training" / "start").lm.named_parameters())
    assert log["entropy"][1:].notna().all() and log["reward"].notna().any() and len(rollouts)
    assert any(not torch.equal(weight, before[name]) for name, weight in weights.items())
    if "beta" in settings:
        assert log["kl"].iloc[-1] > 0


@pytest.mark.parametrize(("readout", "similarity"), [("mean", "inner"), ("max", "cosine"), ("token", "inner")])
def test_every_read_out_and_similarity_trains(run, tiny, tiny_with_token, readout, similarity):
    tiny.prompts = tiny_with_token.prompts  # `run` trains `tiny`
    tiny.head.readout, tiny.head.similarity = readout, similarity
    tiny.head.temperature = 0.05 if similarity == "cosine" else 1.0
    folder = run("head", {"max_steps": 2})
    jobs.train(folder, report=lambda line: None)
    trained = R2ec.load(folder / "model")
    assert (trained.head.readout, trained.head.similarity) == (readout, similarity)


def test_adapters_train_and_the_backbone_stays(run, tiny, tmp_path):
    tiny.lm = adapted(tiny, tmp_path / "base")
    folder = run("lora", {"max_steps": 3, "beta": 0.05})
    jobs.train(folder, report=lambda line: None)
    weights, before = outcome(folder)[2], dict(R2ec.load(folder / "training" / "start").lm.named_parameters())
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert not (folder / "model" / "adapter" / "ref").exists()  # the start, which the divergence is measured from


def test_a_training_that_makes_the_ranking_worse_says_so(run, tiny):
    good, lines = run("good", {"learning_rate": 0.02, "max_steps": 2}), []
    jobs.train(good, report=lines.append)
    tiny.lm.load_state_dict(R2ec.load(good / "model").lm.state_dict())
    tiny.refresh()
    worse = run("worse", {"learning_rate": 0.5, "max_steps": 2})
    assert not any("WARNING" in line for line in lines)
    jobs.train(worse, report=lines.append)
    ranked = read_table(worse / "training" / "log.parquet").set_index("step")["valid_ndcg@10"]
    best = read_table(good / "training" / "log.parquet")["valid_ndcg@10"].max()
    assert ranked[0] == pytest.approx(best, abs=1e-6) and ranked[2] < ranked[0]
    expected = f"WARNING no validation was as good as that of the start, NDCG@10 {ranked[0]:.4f}"
    assert any(line.startswith(expected) for line in lines)


def test_keys_that_would_undo_one_another_are_refused():
    with pytest.raises(DataError, match=r"item_steps is 5 and item_vectors learned"):
        jobs.check_combined(
            item_steps=5, writing_steps=0, item_vectors="learned", lora_layers=0, lora_r=0, dtype="float32"
        )
    with pytest.raises(DataError, match=r"lora_layers is 2 and lora_r 0"):
        jobs.check_combined(
            item_steps=0, writing_steps=0, item_vectors="texts", lora_layers=2, lora_r=0, dtype="float32"
        )
    with pytest.raises(DataError, match="readout is alone and max_completion_length 0"):
        jobs.check_readout("alone", 0)
    jobs.check_readout("alone", 8)
    jobs.check_combined(item_steps=5, writing_steps=5, item_vectors="texts", lora_layers=2, lora_r=4, dtype="bfloat16")
    with pytest.raises(DataError, match=r"dtype is bfloat16 and lora_r 0"):
        jobs.check_combined(
            item_steps=0, writing_steps=0, item_vectors="texts", lora_layers=0, lora_r=0, dtype="bfloat16"
        )
    with pytest.raises(DataError, match=r"writing_steps is 5 and lora_r 0"):
        jobs.check_combined(
            item_steps=5, writing_steps=5, item_vectors="texts", lora_layers=0, lora_r=0, dtype="float32"
        )
