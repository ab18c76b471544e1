"""`genarm-hf train`: from a csv to a reward model that guides, and one sentence for whatever is wrong."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from genarm_hf.cli import main, train
from genarm_hf.cli.parsing import UsageError

from ..conftest import tiny
from .conftest import build_tokenizer

pytest.importorskip("datasets")
pytest.importorskip("peft")
ROOT = Path(__file__).parents[2]
ROWS = [(f"w{i} w4", "w7 w8 w9", "w9 w20") for i in range(3, 43)]


def write_csv(
    path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("prompt", "chosen", "rejected")
) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that likes all tokens about equally."""
    directory = tmp_path_factory.mktemp("plain")
    tiny("llama", initializer_range=0.1).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def command(plain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Any:
    """Runs `train` on a small csv and gives what it printed; of an error, standard error."""
    pairs = write_csv(tmp_path / "pairs.csv", ROWS)

    def run(*argv: str, status: int = 0, model: str = "", data: str = "", output: str = "") -> str:
        required = {"--model": model or plain_base, "--data": data or pairs, "--output": output or tmp_path / "arm"}
        named = [str(part) for option in required.items() for part in option]
        assert main(["train", *named, "--use-cpu", "--disable-tqdm=true", *argv]) == status, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def options(*argv: str) -> Any:
    return train.parser().parse(["--model", "m", "--data", "d", "--output", "o", *argv])


# ---------------------------------------------------------------------- from pairs to guidance


def test_a_csv_becomes_a_reward_model_that_guides(command: Any, plain_base: Path, tmp_path: Path) -> None:
    learning = ("--learning-rate", "1e-2", "--num-train-epochs", "8", "--beta", "0.5", "--eval-size", "0.25")
    out = command("--objective", "sevens", *learning, "--per-device-train-batch-size", "8")
    assert "30 pairs to train on, 10 held out." in out
    assert re.search(r"accuracy +100.0 % \[\d+\.\d, 100.0\] of 10", out)
    arm = AutoModel.from_pretrained(tmp_path / "arm")
    assert (arm.config.objective, arm.config.beta, arm.config.adapter["type"]) == ("sevens", 0.5, "LORA")
    tried = shlex.split(out.strip().splitlines()[-1])
    assert tried[:7] == [
        "genarm-hf",
        "generate",
        "--model",
        str(plain_base),
        "--reward-model",
        str(tmp_path / "arm"),
        "--alpha",
    ]
    assert tried[-1] in {row[0] for row in ROWS}
    base = AutoModelForCausalLM.from_pretrained(plain_base)
    inputs = build_tokenizer()("w3 w4", return_tensors="pt", return_token_type_ids=False)
    plain, guided = (
        base.generate(
            **inputs,
            reward_models=[arm],
            alpha=alpha,
            max_new_tokens=1,
            output_logits=True,
            return_dict_in_generate=True,
        ).logits[0][0]
        for alpha in (0.0, 1.0)
    )
    # chosen responses start with token 7, rejected ones with token 9
    assert guided[7] - guided[9] > 1 + plain[7] - plain[9]


def test_the_command_that_is_printed_runs(command: Any, capsys: pytest.CaptureFixture) -> None:
    tried = shlex.split(command().strip().splitlines()[-1])
    assert main([*tried[1:-1], "--max-new-tokens", "4", "--device", "cpu", "--", tried[-1]]) == 0
    assert capsys.readouterr().out.strip()


def test_the_card_tells_how_it_was_trained(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["genarm-hf", "train", "--data", "pairs.csv", "--hub-token", "hf_abcdefghij"])
    command("--lora-r", "2")
    record = json.loads((tmp_path / "arm" / "training_record.json").read_text())
    card = (tmp_path / "arm" / "README.md").read_text()
    assert record["command"] in card and "hf_abc" not in card
    assert (record["pairs"], record["held_out"]["accuracy"]["count"]) == (36, 4)
    assert (record["hyperparameters"]["r"], record["hyperparameters"]["beta"]) == (2, 0.05)


def test_less_those_of_the_base(command: Any, tmp_path: Path) -> None:
    command("--subtract-reference", "--max-steps", "2", "--logging-steps", "1")
    record = json.loads((tmp_path / "arm" / "training_record.json").read_text())
    card = (tmp_path / "arm" / "README.md").read_text()
    assert record["hyperparameters"]["subtract_reference"] is True
    assert "subtract_reference `True`" in card and "less those of the base before training" in card
    assert options("--subtract-reference").training["subtract_reference"] is True
    assert options().training["subtract_reference"] is False


def test_all_weights(command: Any, tmp_path: Path) -> None:
    command("--full", "--eval-size", "0", "--max-steps", "1")
    arm = AutoModel.from_pretrained(tmp_path / "arm")
    record = json.loads((tmp_path / "arm" / "training_record.json").read_text())
    assert arm.config.adapter is None and arm.dtype == torch.float32
    assert record["hyperparameters"]["learning_rate"] == 5e-7 and record["held_out"] is None


def test_a_reward_model_is_trained_further(command: Any, tmp_path: Path) -> None:
    command("--lora-r", "3", "--max-steps", "1")
    command("--max-steps", "1", "--learning-rate", "1e-2", model=str(tmp_path / "arm"), output=str(tmp_path / "more"))
    adapters = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("arm", "more")]
    assert [adapter["r"] for adapter in adapters] == [3, 3]


def test_an_adapter_has_no_weights_of_its_own_to_train(
    command: Any, lora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = command("--lora-r", "2", "--target_modules=q_proj", "--max-steps", "1", model=str(lora_dir))
    assert f"Without effect: --lora-r, --target-modules; the adapter of {lora_dir} is trained further." in out
    monkeypatch.setattr(train, "_model", lambda *args: pytest.fail("the model was loaded"))
    err = command("--full", model=str(lora_dir), output=str(tmp_path / "full"), status=2)
    assert f"`--model` {str(lora_dir)!r} is an adapter of" in err and "Leave `--full` out" in err


def test_low_precision_is_no_place_for_small_updates(command: Any, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: 1 + 5e-7 is 1."""
    assert torch.tensor(1, dtype=torch.bfloat16) + 5e-7 == 1
    more = ("--max-steps", "1", "--eval-size", "0")
    out = command("--full", "--dtype", "bfloat16", *more)
    assert "Warning: `--full --dtype bfloat16` rounds most updates of 5e-07 away. Use `--dtype float32`" in out
    assert "Warning" not in command("--full", "--lora-r", "8", *more, output=str(tmp_path / "other"))


def test_a_service_that_is_not_installed(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    err = command("--report-to", "tensorboard", status=2)
    assert "tensorboard" in err and "install" in err and err.count("\n") == 1


def test_held_out_pairs_of_their_own(command: Any, tmp_path: Path) -> None:
    held_out = write_csv(tmp_path / "held-out.csv", ROWS[:5])
    out = command("--eval-data", str(held_out), "--max-pairs", "7")
    assert "Left 5 of 7 pairs out: `--eval-data` has their prompts." in out
    assert "2 pairs to train on, 5 held out." in out
    everything = str(write_csv(tmp_path / "everything.csv", ROWS))
    assert "`--eval-data` has all prompts of `--data`" in command(
        "--eval-data", everything, output=str(tmp_path / "other"), status=2
    )


def test_the_held_out_split_is_not_the_one_trained_on(
    command: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both, more = tmp_path / "both", ("--max-steps", "1")
    both.mkdir()
    for split, rows in (("train", ROWS[:20]), ("validation", ROWS[20:27]), ("test", ROWS[27:32])):
        write_csv(both / f"{split}.csv", rows)
    out = command("--eval-data", str(both), *more, data=str(both))
    assert "20 pairs to train on, 5 held out." in out
    for split in ("train", "test"):
        assert f"read the split '{split}', of ['test', 'train', 'validation']" in caplog.text
    other = ("--eval-data", str(both), "--eval-split", "validation")
    assert "20 pairs to train on, 7 held out." in command(*other, *more, data=str(both), output=str(tmp_path / "other"))


def test_resuming_ends_where_an_undisturbed_run_ends(command: Any, tmp_path: Path) -> None:
    steps = ("--save-steps", "2", "--per-device-train-batch-size", "6", "--save-total-limit", "9", "--eval-size", "0")
    command(*steps)
    whole = AutoModel.from_pretrained(tmp_path / "arm").state_dict()
    for late in ("checkpoint-6", "checkpoint-7"):
        os.rename(tmp_path / "arm" / late, tmp_path / late)
    command(*steps, "--resume")
    again = AutoModel.from_pretrained(tmp_path / "arm").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert {path.name for path in (tmp_path / "arm").glob("checkpoint-*")} >= {"checkpoint-4", "checkpoint-7"}
    state = json.loads((tmp_path / "arm" / "checkpoint-7" / "trainer_state.json").read_text())
    assert state["global_step"] == 7


def test_resuming_without_a_checkpoint_starts(command: Any) -> None:
    assert "starting from the beginning" in command("--resume", "--max-steps", "1")


def test_a_folder_that_is_not_empty(command: Any, tmp_path: Path) -> None:
    command("--max-steps", "1", "--save-steps", "1")
    assert "is not empty. Go on with `--resume`, start anew with `--overwrite`" in command(status=2)
    (tmp_path / "arm" / "checkpoint-99").mkdir()
    command("--overwrite", "--max-steps", "1")
    assert not (tmp_path / "arm" / "checkpoint-99").exists()


def test_bad_rows_are_counted(command: Any, tmp_path: Path) -> None:
    data = str(write_csv(tmp_path / "bad.csv", [*ROWS, ("w3", "", "w4")]))
    assert "Row 40 of" in command(data=data, status=2)
    assert "36 pairs to train on, 4 held out." in command("--skip-bad-rows", data=data)


# ---------------------------------------------------------------------- the command line and its file


def test_the_papers_settings_are_the_defaults() -> None:
    given = options()
    args = train._arguments(given)
    assert (args.learning_rate, args.beta, args.num_train_epochs, args.lr_scheduler_type) == (5e-4, 0.05, 1, "cosine")
    assert args.per_device_train_batch_size == 32
    assert (given.lora_r, given.lora_alpha, given.lora_dropout, given.target_modules) == (8, 16, 0.05, "all-linear")
    assert train._lora(given).target_modules == "all-linear"
    assert train._lora(options("--target-modules", "q_proj,v_proj")).target_modules == {"q_proj", "v_proj"}


@pytest.mark.parametrize(("world", "accumulation", "batch"), [(1, 1, 32), (4, 1, 8), (2, 4, 4), (64, 1, 1)])
def test_the_papers_batch_is_shared(world: int, accumulation: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options("--gradient-accumulation-steps", str(accumulation))
    args = {**given.training, "output_dir": "o"}
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setattr("genarm_hf.training.ARMTrainingArguments", lambda **kwargs: args.update(kwargs), raising=False)
    train._arguments(given)
    assert args["per_device_train_batch_size"] == batch


def test_options_of_the_trainer_are_accepted() -> None:
    given = options("--bf16", "--report-to", "wandb", "--push-to-hub", "--max_steps", "5", "--warmup-steps=3", "--full")
    assert given.full is True
    for name, value in {
        "bf16": True,
        "report_to": "wandb",
        "push_to_hub": True,
        "max_steps": 5,
        "warmup_steps": 3,
    }.items():
        assert given.training[name] == value, name


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: m\ndata: d\noutput: o\nlearning_rate: 1e-3\nlora-r: 4\nfull: true\nbf16: false\nmax_pairs: null\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\n"
    )
    given = train.parser().parse(["--config", str(path), "--lora-r", "2", "--full=false", "--data", "e"])
    assert (given.model, given.data, given.lora_r, given.full, given.max_pairs) == ("m", "e", 2, False, None)
    assert (given.training["learning_rate"], given.training["bf16"]) == (1e-3, False)
    assert train._arguments(given).lr_scheduler_kwargs == {"num_cycles": 2}


def test_the_example_file_is_read() -> None:
    given = train.parser().parse(["--config", str(ROOT / "examples" / "train.yaml"), "--use-cpu"])
    train._check(given)
    arguments = train._arguments(given)
    assert (arguments.objective, arguments.bf16) == ("harmless", False)  # a CPU has none
    assert given.data == "Anthropic/hh-rlhf/harmless-base"


RECIPES = {
    "hh-llama-7b": (0.05, 5e-4, "cosine", 1, 32, False),
    "pku-alpaca-7b-helpful": (0.5, 5e-4, "cosine", 1, 32, False),
    "pku-alpaca-7b-harmless": (0.01, 5e-4, "cosine", 1, 32, False),
    "tulu2-7b": (0.1, 5e-7, "linear", 3, 4, True),  # on 8 GPUs
}


def test_there_are_no_other_recipes() -> None:
    assert {path.stem for path in (ROOT / "examples" / "recipes").iterdir()} == set(RECIPES)


@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning"
)  # and its new name is not old
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_settings_of_the_paper(name: str) -> None:
    path = ROOT / "examples" / "recipes" / f"{name}.yaml"
    given = train.parser().parse(["--config", str(path), "--use-cpu", "--bf16=false"])
    train._check(given)
    args = train._arguments(given)
    settings = (args.beta, args.learning_rate, args.lr_scheduler_type, args.num_train_epochs)
    assert (*settings, args.per_device_train_batch_size, given.full) == RECIPES[name]
    assert given.full or (given.lora_r, given.lora_alpha, given.lora_dropout) == (8, 16, 0.05)
    assert name in (ROOT / "docs" / "how-to" / "reproduce-at-scale.md").read_text(encoding="utf-8")
    # the first lines say how it is run, from the root of the repository
    assert f"--config examples/recipes/{name}.yaml" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: 1", "'learning_rat' is no option of this command; did you mean 'learning_rate'?"),
        ("xyzzy: 1", "'xyzzy' is no option of this command (see"),
        ("output_dir: o", "'output_dir' is no option"),
        ("- a list", "must hold lines like `learning_rate: 1e-4`"),
        ("a: [", "could not be read"),
        ("lora_r: many", "argument --lora-r: invalid int value: 'many'"),
        ("dtype: int3", "argument --dtype: invalid choice"),
    ],
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)):
        options("--config", str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--lora-r", "0"], "`--lora-r` must be at least 1, got 0."),
        (["--lora-dropout", "1"], "`--lora-dropout` must be at least 0 and below 1"),
        (["--eval-size", "1"], "`--eval-size` must be a share"),
        (["--max-pairs", "0"], "`--max-pairs` must be at least 1"),
        (["--learning-rate", "-1"], "`--learning-rate` must be a number of at least 0"),
        (["--full", "--load-in-4bit"], "Drop one."),
        (["--resume", "--overwrite"], "Choose one."),
        (["--resume-from-checkpoint", "nowhere"], "there is no folder 'nowhere'"),
        (["--beta", "-1"], "`--beta` must be a positive number"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--lr-scheduler-kwargs", "{"], "`--lr-scheduler-kwargs` '{' is no json object"),
        (["--lr-scheduler-kwargs", "[1]"], "`--lr-scheduler-kwargs` must be a json object, got '[1]'"),
        (
            ["--accelerator-config", "nowhere.json"],
            "`--accelerator-config` 'nowhere.json' is no json object, nor a file",
        ),
        (["--optim-args", "1"], "`--optim-args` must be `name=value`, several with commas between, got '1'"),
        (["--gradient-accumulation-steps", "0"], "`--gradient-accumulation-steps` must be at least 1, got 0"),
        (["--seed", "-1"], "`--seed` must be at least 0 and below 2**32, got -1"),
        (["--config", "nowhere.yaml"], "`--config` 'nowhere.yaml' could not be read"),
        (["--loss-type", "square"], "`--loss-type` must be one of"),
        (
            ["--max-pairs", "1"],
            "same prompt, so no split can keep it out of one part. Hold none out with `--eval-size 0`",
        ),
        (["--eval-split", "test"], "`--eval-split` is a split of `--eval-data`, which is missing."),
    ],
)
def test_bad_input_is_one_sentence_before_the_model_is_loaded(
    argv: list[str], said: str, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_model", lambda *args: pytest.fail("the model was loaded"))
    err = command(*argv, status=2)
    assert said in err and err.count("\n") == 1


def test_bad_places(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_model", lambda *args: pytest.fail("the model was loaded"))
    assert "is a file" in command(output=str(tmp_path / "pairs.csv"), status=2)
    assert "there is no folder" in command(model=str(tmp_path / "nowhere"), status=2)
    assert "nowhere.csv" in command(data=str(tmp_path / "nowhere.csv"), status=2)
    wrong = write_csv(tmp_path / "wrong.csv", [("a", "b")], ("question", "answer"))
    assert "question" in command(data=str(wrong), status=2)
    assert not (tmp_path / "arm").exists() or not any((tmp_path / "arm").iterdir())


def test_4bit_names_what_is_missing(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs bitsandbytes: pip install bitsandbytes" in command("--load-in-4bit", status=2)


def test_quantised_bases_get_their_adapter_before_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of transformers; bitsandbytes itself is not needed."""
    seen: dict[str, Any] = {}
    arm = type("Arm", (), {"backbone": tiny()})()
    monkeypatch.setattr(
        "genarm_hf.modeling_genarm.AutoregressiveRewardModel.from_pretrained", lambda name, **kw: seen.update(kw) or arm
    )
    given = options("--use-cpu", "--load-in-4bit")
    assert train._model(given, train._arguments(given)) is arm
    config = seen["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    model = train._quantized_with_adapter(arm, train._lora(given))
    trained = {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"lora_A", "lora_B"}


def test_help_loads_neither_models_nor_the_network() -> None:
    """What loads models and data is not even imported; our own options come first."""
    script = (
        "import sys, socket; socket.socket.connect = lambda *a: sys.exit('network');"
        "from genarm_hf.cli import main; status = main(['train', '--help']);"
        "heavy = {'datasets', 'genarm_hf.training.trainer'} & set(sys.modules);"
        "sys.exit(status or (str(heavy) if heavy else 0))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    places = [done.stdout.index(text) for text in ("--model BASE", "--beta FLOAT", "--adam-beta1 FLOAT")]
    assert places == sorted(places)


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_accelerate_are_valid(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type.value == kinds[path.stem]
    assert (
        config.fsdp_config.get("fsdp_version", 2) == 2
        and f"zero{config.deepspeed_config.get('zero_stage', '')}" in f"{path.stem} zero"
    )


def test_accelerate_launch_on_two_processes(plain_base: Path, tmp_path: Path) -> None:
    """With ddp.yaml, told to use CPUs; one of the two prints."""
    pairs, config = write_csv(tmp_path / "pairs.csv", ROWS), tmp_path / "ddp.yaml"
    text = (ROOT / "examples" / "accelerate" / "ddp.yaml").read_text()
    config.write_text(text.replace("use_cpu: false", "use_cpu: true"))
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--num_processes",
        "2",
    ]
    named = ["--model", str(plain_base), "--data", str(pairs), "--output", str(tmp_path / "arm")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [*launcher, "--main_process_port", "0", "-m", "genarm_hf.cli", "train", *named]
    command += ["--use-cpu", "--ddp-backend", "gloo", "--max-steps", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("36 pairs to train on, 4 held out.") == done.stdout.count("Try it:") == 1
    assert "on 2 process(es)" in done.stdout
    assert AutoModel.from_pretrained(tmp_path / "arm").config.adapter is not None


def test_bfloat16(command: Any, tmp_path: Path) -> None:
    command("--bf16", "--max-steps", "2", "--learning-rate", "1e-2", "--logging-steps", "1")
    adapter = AutoModel.from_pretrained(tmp_path / "arm")
    trained = [tensor for name, tensor in adapter.state_dict().items() if "lora_B" in name]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in trained)
    assert any(tensor.any() for tensor in trained)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler says of itself
def test_compiled(command: Any, tmp_path: Path) -> None:
    steps = ("--max-steps", "2", "--learning-rate", "1e-2", "--lora-dropout", "0", "--eval-size", "0")
    command(*steps)
    command(*steps, "--torch-compile", output=str(tmp_path / "compiled"))
    plain, compiled = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("arm", "compiled"))
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-4)
