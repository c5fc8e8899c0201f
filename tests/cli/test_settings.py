"""Flags, the YAML file and the dry run of `ptychopinn train` and `infer`: what wins, what is refused."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from runs import check_mistake, run, small_scan

from ptycho.cli import knobs, older, reference
from ptycho.cli.options import HeadedOption
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "CONFIGURATION.md"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    (path / "wts.h5.zip").write_bytes(b"model")
    return path


@pytest.fixture
def yaml_file(tmp_path):
    def write(content):
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def parts_of(call):
    return {ModelConfig: call.config.model, TrainingConfig: call.config, InferenceConfig: call.config,
            PyTorchExecutionConfig: call.execution}  # fmt: skip


def table_of(result):
    """Setting -> (value, source), from the printed table."""
    assert result.exit_code == 0, result.output
    lines = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines() if line.startswith("  ")]
    assert all(len(cells) == 3 for cells in lines) and len({cells[0] for cells in lines}) == len(lines)
    return {name: (value, source) for name, value, source in lines}


# ---------------------------------------------------------------------- each flag reaches its field

# Flags -> what they set. Every knob of `train` has to be here; see test_every_flag_is_tried.
FLAGS = {
    "measurement_domain": ("--measurement-domain intensity", "intensity"),
    "architecture": ("--architecture cnn", "cnn"),
    "nphotons": ("--nphotons 3e4", 3e4),
    "nepochs": ("--epochs 7", 7),
    "batch_size": ("--batch-size 5", 5),
    "learning_rate": ("--learning-rate 0.02", 0.02),
    "max_time_s": ("--max-time 2.5m", 150.0),
    "calibrate_probe": ("--no-calibrate", False),
    "seed": ("--seed 11", 11),
    "accelerator": ("--accelerator cuda", "cuda"),
    "init_from": ("--init-from earlier", Path("earlier")),
    "pretrain_scans": ("--pretrain-scans 5", 5),
    "merge_block": ("--merge-block 6", 6),
    "stages": ("--stages 3", 3),
    "projection_steps": ("--projection-steps 1", 1),
    "later_projection_steps": ("--later-projection-steps 4", 4),
    "calibration_epochs": ("--calibration-epochs 2", 2),
    "n_subsample": ("--n-subsample 30", 30),
    "subsample_seed": ("--subsample-seed 9", 9),
    "n_groups": ("--n-groups 48", 48),
    "val_fraction": ("--val-fraction 0", 0.0),
    "torch_loss_mode": ("--loss mae", "mae"),
    "optimizer": ("--optimizer adamw", "adamw"),
    "weight_decay": ("--weight-decay 0.01", 0.01),
    "scheduler": ("--scheduler Cosine", "Cosine"),
    "lr_warmup_epochs": ("--lr-warmup-epochs 2", 2),
    "lr_min_ratio": ("--lr-min-ratio 0.5", 0.5),
    "gradient_clip_val": ("--gradient-clip-val 0.7", 0.7),
    "gradient_clip_algorithm": ("--gradient-clip-algorithm value", "value"),
    "accum_steps": ("--accumulate-grad-batches 4", 4),
    "early_stop_patience": ("--patience 4", 4),
    "stop_improvement": ("--stop-improvement 0", 0.0),
    "stop_window": ("--stop-window 5", 5),
    "devices": ("--devices auto", "auto"),
    "strategy": ("--strategy ddp", "ddp"),
    "precision": ("--precision bf16-mixed", "bf16-mixed"),
    "deterministic": ("--no-deterministic", False),
    "num_workers": ("--num-workers 2", 2),
    "pin_memory": ("--pin-memory", True),
    "persistent_workers": ("--persistent-workers", True),
    "prefetch_factor": ("--prefetch-factor 3", 3),
    "inference_batch_size": ("--inference-batch-size 8", 8),
    "logger_backend": ("--logger none", None),
    "enable_checkpointing": ("--disable-checkpointing", False),
    "checkpoint_save_top_k": ("--checkpoint-save-top-k 2", 2),
    "checkpoint_monitor_metric": ("--checkpoint-monitor train_loss", "train_loss"),
    "checkpoint_mode": ("--checkpoint-mode max", "max"),
}
TRAINING = {knob.field: knob for knob in (*knobs.SCAN_KNOBS, *knobs.TRAINING_KNOBS)}


@pytest.fixture
def no_backend_check(monkeypatch):
    """What the backend refuses is its own matter, and tested there."""
    monkeypatch.setattr("ptycho.cli.shared.check_settings", lambda *configs: [])


def test_every_flag_is_tried():
    assert set(FLAGS) == set(TRAINING)


@pytest.mark.parametrize("field", FLAGS)
def test_flags_reach_the_dataclass(scan_file, tmp_path, backend, no_backend_check, field):
    text, value = FLAGS[field]
    assert value != TRAINING[field].default or field in ("measurement_domain",)
    result = run("train", scan_file, "-o", tmp_path / "out", "-q", *text.split())
    assert result.exit_code == 0, result.output
    assert getattr(parts_of(backend.train)[TRAINING[field].owner], field) == value


@pytest.mark.parametrize("field", [knob.field for knob in knobs.INFERENCE_KNOBS])
def test_flags_of_infer(scan_file, model_folder, tmp_path, backend, no_backend_check, field):
    text, value = FLAGS[field]
    result = run("infer", model_folder, scan_file, "-o", tmp_path / "out", "-q", *text.split())
    assert result.exit_code == 0, result.output
    owner = InferenceConfig if hasattr(backend.infer.config, field) else PyTorchExecutionConfig
    assert getattr(parts_of(backend.infer)[owner], field) == value


def test_nothing_stated_is_the_defaults(scan_file, tmp_path, backend):
    assert run("train", scan_file, "-o", tmp_path / "out", "--accelerator", "cpu").exit_code == 0
    call = backend.train
    expected = TrainingConfig(ModelConfig(N=32), train_data_file=scan_file, output_dir=tmp_path / "out")
    assert call.config == expected
    assert call.execution == PyTorchExecutionConfig(accelerator="cpu")


def test_a_knob_that_exists_twice_is_one_setting(scan_file, tmp_path, backend, no_backend_check):
    flags = "--scheduler Cosine --gradient-clip-val 2 --gradient-clip-algorithm value".split()
    assert run("train", scan_file, "-o", tmp_path / "out", *flags).exit_code == 0
    for config in (backend.train.config, backend.train.execution):
        assert (config.scheduler, config.gradient_clip_val, config.gradient_clip_algorithm) == ("Cosine", 2, "value")


def test_threads_are_set_for_the_run_only_there(scan_file, model_folder, tmp_path, backend, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    assert run("train", scan_file, "-o", tmp_path / "a").exit_code == 0 and asked == []
    assert run("train", scan_file, "-o", tmp_path / "b", "--threads", "3", "--dry-run").exit_code == 0 and asked == []
    assert run("train", scan_file, "-o", tmp_path / "b", "--threads", "3").exit_code == 0
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "c", "--threads", "2").exit_code == 0
    assert asked == [3, 2]


@pytest.mark.parametrize("flags", ["--devices 0", "--devices some", "--precision 64", "--loss mse", "--threads 0",
                                   "--val-fraction 1", "--lr-min-ratio 2", "--num-workers -1"])  # fmt: skip
def test_values_that_are_refused(scan_file, tmp_path, backend, flags):
    check_mistake(run("train", scan_file, "-o", tmp_path / "out", *flags.split()), flags.split()[0])
    assert backend.train is None


# ---------------------------------------------------------------------- the file


def test_flag_over_file_over_default(scan_file, tmp_path, backend, yaml_file):
    path = yaml_file({"nepochs": 20, "seed": 4, "execution": {"learning_rate": 0.5}})
    result = run("train", scan_file, "-o", tmp_path / "out", "--config", path, "--epochs", "5", "--seed", "0")
    assert result.exit_code == 0, result.output
    call = backend.train
    # --seed 0 is the default, said aloud: it wins all the same
    assert (call.config.nepochs, call.config.seed, call.execution.learning_rate) == (5, 0, 0.5)
    assert call.config.batch_size == TrainingConfig(ModelConfig()).batch_size


CONTENTS = [
    ("nepochs: 3", TrainingConfig, "nepochs", 3),
    ("learning_rate: 1e-3", PyTorchExecutionConfig, "learning_rate", 1e-3),
    ("max_time_s: 10m", TrainingConfig, "max_time_s", 600.0),
    ("max_time_s: null", TrainingConfig, "max_time_s", None),
    ("calibrate_probe: false", TrainingConfig, "calibrate_probe", False),
    ("unet_channels: 8", ModelConfig, "unet_channels", 8),
    ("model: {unet_channels: 8}", ModelConfig, "unet_channels", 8),
    ("model:", ModelConfig, "unet_channels", ModelConfig().unet_channels),
    ("momentum: 0.5", TrainingConfig, "momentum", 0.5),
    ("execution: {deterministic: warn}", PyTorchExecutionConfig, "deterministic", "warn"),
    ("execution: {devices: 2}", PyTorchExecutionConfig, "devices", 2),
    ("devices: auto", PyTorchExecutionConfig, "devices", "auto"),
    ("logger_backend: null", PyTorchExecutionConfig, "logger_backend", None),
    ("logger_backend: none", PyTorchExecutionConfig, "logger_backend", None),
    ("enable_progress_bar: true", PyTorchExecutionConfig, "enable_progress_bar", True),
    ("scheduler: Cosine\nexecution: {scheduler: Cosine}", PyTorchExecutionConfig, "scheduler", "Cosine"),
    ("crop: 16", ModelConfig, "N", 16),
    ("N: 32", ModelConfig, "N", 32),
    ("n_images: 40", TrainingConfig, "n_groups", 40),
    ("", TrainingConfig, "nepochs", TrainingConfig(ModelConfig()).nepochs),
]


@pytest.mark.parametrize(("content", "owner", "field", "value"), CONTENTS)
def test_what_a_file_states(scan_file, tmp_path, backend, no_backend_check, yaml_file, content, owner, field, value):
    result = run("train", scan_file, "-o", tmp_path / "out", "--config", yaml_file(content))
    assert result.exit_code == 0, result.output
    found = getattr(parts_of(backend.train)[owner], field)
    assert found == value and type(found) is type(value)


def test_every_field_may_stand_in_a_file(scan_file, tmp_path, backend, no_backend_check, yaml_file):
    """The defaults, written out, change nothing."""
    stated = {}
    for config in (ModelConfig(N=32), TrainingConfig(ModelConfig()), PyTorchExecutionConfig(accelerator="cpu")):
        stated.update({f.name: getattr(config, f.name) for f in dataclasses.fields(config)})
    for name in ("model", "train_data_file", "test_data_file", "output_dir", "n_images"):
        del stated[name]
    result = run("train", scan_file, "-o", tmp_path / "out", "--config", yaml_file(stated))
    assert result.exit_code == 0, result.output
    assert backend.train.config.model == ModelConfig(N=32)
    assert backend.train.execution == PyTorchExecutionConfig(accelerator="cpu")


def test_a_file_names_the_folder_and_the_options_of_the_command(scan_file, tmp_path, backend, yaml_file):
    first = run("train", scan_file, "-o", tmp_path / "first")
    assert first.exit_code == 0
    path = yaml_file({"output_dir": str(tmp_path / "out"), "reference": str(tmp_path / "first"), "half": 12})
    result = run("train", scan_file, "--config", path)
    assert result.exit_code == 0, result.output
    assert backend.train.output_dir == tmp_path / "out" and "Compared with: first/reconstruction.npz" in result.stdout
    check_mistake(run("train", scan_file, "--config", yaml_file("seed: 1")), "--output-dir", "output_dir")


def test_a_deprecated_key_warns_once(scan_file, tmp_path, backend, yaml_file):
    result = run("train", scan_file, "-o", tmp_path / "out", "--config", yaml_file("n_images: 40"))
    assert result.stderr.count("n_images is deprecated; say n_groups") == 1


def test_infer_takes_a_file(scan_file, model_folder, tmp_path, backend, yaml_file):
    path = yaml_file({"n_subsample": 30, "execution": {"inference_batch_size": 4, "accelerator": "cpu"}})
    result = run("infer", model_folder, scan_file, "-o", tmp_path / "out", "--config", path, "--n-subsample", "20")
    assert result.exit_code == 0, result.output
    call = backend.infer
    assert (call.config.n_subsample, call.execution.inference_batch_size) == (20, 4)
    assert (call.config.model_path, call.config.test_data_file) == (model_folder / "wts.h5.zip", scan_file)


BAD_FILES = [
    ("nepoch: 3", ["nepoch is unknown", "'nepochs'"]),
    ("epochs: 3", ["epochs is unknown", "'nepochs'"]),
    ("loss: mae", ["loss is unknown", "'torch_loss_mode'"]),
    ("learning-rate: 1", ["learning-rate", "'learning_rate'"]),
    ("model: {stage: 3}", ["model.stage is unknown", "'stages'"]),
    ("execution: {stages: 3}", ["execution.stages is unknown"]),
    ("3: 3", ["3 is unknown"]),
    ("overwrite: true", ["overwrite is unknown"]),
    ("model: 3", ["section model", "name: value"]),
    ("nepochs: 2.5", ["nepochs", "2.5"]),
    ("nepochs: true", ["nepochs", "True"]),
    ("nepochs: [1, 2]", ["nepochs", "[1, 2]"]),
    ("nepochs: null", ["nepochs", "None"]),
    ("nepochs: -1", ["nepochs", "-1"]),
    ("calibrate_probe: 1", ["calibrate_probe", "true or false"]),
    ("calibrate_probe: maybe", ["calibrate_probe", "maybe"]),
    ("optimizer: lbfgs", ["optimizer", "lbfgs", "adamw"]),
    ("learning_rate: .nan", ["learning_rate", "nan"]),
    ("momentum: 1.5", ["momentum", "1.5"]),
    ("max_time_s: soon", ["max_time_s", "soon"]),
    ("architecture: resnet", ["architecture", "resnet"]),
    ("backend: tensorflow", ["tensorflow", "pytorch"]),
    ("N: 64", ["N=64", "32 x 32"]),
    ("train_data_file: a.npz", ["train_data_file", "command line"]),
    ("test_data_file: a.npz", ["test_data_file", "val_fraction"]),
    ("scheduler: Cosine\nexecution: {scheduler: Exponential}", ["'Cosine'", "'Exponential'", "State it once"]),
    ("n_groups: 3\nn_images: 4", ["n_groups", "n_images", "State it once"]),
    ("a: [1", ["not valid YAML"]),
    ("- 1\n- 2", ["list", "name: value"]),
    ("nepochs: !!python/object/apply:os.system ['true']", ["not valid YAML"]),
]


@pytest.mark.parametrize(("content", "fragments"), BAD_FILES)
def test_files_that_are_refused(scan_file, tmp_path, backend, yaml_file, content, fragments):
    result = run("train", scan_file, "-o", tmp_path / "out", "-q", "--config", yaml_file(content))
    check_mistake(result, *fragments)
    assert backend.train is None and not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_or_no_text(scan_file, tmp_path, backend):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "binary.yaml"):
        check_mistake(run("train", scan_file, "-o", tmp_path / "out", "-q", "--config", tmp_path / name), name)
    check_mistake(run("train", scan_file, "-o", tmp_path / "out", "-q", "--config", tmp_path), str(tmp_path))


def test_infer_refuses_what_only_training_takes(scan_file, model_folder, tmp_path, backend, yaml_file):
    for content, key in (("nepochs: 3", "nepochs"), ("model: {stages: 3}", "model.stages")):
        result = run("infer", model_folder, scan_file, "-o", tmp_path / "out", "-q", "--config", yaml_file(content))
        check_mistake(result, f"{key} does not act", "training")
    path = yaml_file("inference_batchsize: 3")
    result = run("infer", model_folder, scan_file, "-o", tmp_path / "out", "-q", "--config", path)
    check_mistake(result, "'inference_batch_size'")


def test_a_refused_setting_does_not_cost_earlier_results(scan_file, tmp_path, backend, yaml_file):
    out = tmp_path / "out"
    assert run("train", scan_file, "-o", out).exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    path = yaml_file("positions_provided: false")
    result = run("train", scan_file, "-o", out, "--overwrite", "-q", "--config", path)
    check_mistake(result, "positions_provided")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


# ---------------------------------------------------------------------- the dry run


def listing(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def test_dry_run_names_values_and_sources(scan_file, tmp_path, backend, yaml_file):
    path = yaml_file({"nepochs": 20, "model": {"stages": 3}, "half": 12, "probe_scale": 2.0})
    before = listing(tmp_path)
    result = run("train", scan_file, "-o", tmp_path / "out", "--config", path, "--epochs", "5", "--scheduler", "Cosine",
                 "--crop", "16", "--max-time", "90s", "--dry-run")  # fmt: skip
    rows = table_of(result)
    assert rows["scan"] == (str(scan_file), "flag") and rows["output_dir"] == (str(tmp_path / "out"), "flag")
    assert rows["nepochs"] == ("5", "flag") and rows["stages"] == ("3", "file") and rows["half"] == ("12", "file")
    assert rows["crop"] == ("16", "flag") and rows["N"] == ("16", "data")
    assert rows["measurement_domain"] == ("intensity", "data") and rows["max_time_s"] == ("90.0", "flag")
    assert rows["scheduler"] == ("Cosine", "flag") and rows["batch_size"] == ("16", "default")
    assert rows["accelerator"][1] == "default" and rows["reference"] == ("-", "default")
    fields = {f.name for c in (ModelConfig, TrainingConfig, PyTorchExecutionConfig) for f in dataclasses.fields(c)}
    assert fields - set(rows) == {"model", "train_data_file", "test_data_file", "n_images"}
    assert "Note: probe_scale=2.0 has no effect" in result.stdout and str(path) in result.stdout
    assert backend.train is None and listing(tmp_path) == before


def test_dry_run_of_infer(scan_file, model_folder, tmp_path, backend, yaml_file):
    path = yaml_file({"execution": {"inference_batch_size": 4}})
    before = listing(tmp_path)
    result = run("infer", model_folder, scan_file, "-o", tmp_path / "out", "--config", path, "--n-subsample", "20",
                 "--dry-run")  # fmt: skip
    rows = table_of(result)
    assert rows["model"] == (str(model_folder / "wts.h5.zip"), "flag") and rows["N"] == ("32", "data")
    assert rows["n_subsample"] == ("20", "flag") and rows["inference_batch_size"] == ("4", "file")
    assert rows["subsample_seed"] == ("-", "default") and rows["measurement_domain"] == ("intensity", "data")
    assert backend.infer is None and listing(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "fragment"),
    [("gaussian_smoothing_sigma: 1", "gaussian_smoothing_sigma"), ("positions_provided: false", "positions_provided"),
     ("momentum: 2", "momentum"),
     ("N: 64", "N=64"), ("nphotons: 0", "nphotons")],
)  # fmt: skip
def test_dry_run_refuses_what_the_run_refuses(scan_file, tmp_path, backend, yaml_file, content, fragment):
    for more in ([], ["--dry-run"]):
        result = run("train", scan_file, "-o", tmp_path / "out", "-q", "--config", yaml_file(content), *more)
        check_mistake(result, fragment)
    assert backend.train is None and not (tmp_path / "out").exists()


def test_dry_run_refuses_files_and_folders_that_cannot_be_used(scan_file, tmp_path, backend):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious.txt").write_text("mine")
    check_mistake(run("train", scan_file, "-o", tmp_path / "used", "--dry-run", "-q"), "--overwrite")
    check_mistake(run("train", tmp_path / "no.npz", "-o", tmp_path / "out", "--dry-run", "-q"), "no.npz")
    result = run("train", scan_file, "-o", tmp_path / "out", "--reference", tmp_path / "no.npz", "--dry-run", "-q")
    check_mistake(result, "no.npz")


# ---------------------------------------------------------------------- the page


def test_the_tables_of_the_page_are_those_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert reference.with_tables(text) == text, "run: python -m ptycho.cli.reference docs/CONFIGURATION.md"
    for knob in (*TRAINING.values(), *knobs.INFERENCE_KNOBS):
        assert f"`{knob.flag.split('/')[0]}`" in text and f"`{knob.field}`" in text
    for name in reference.TABLES:
        with pytest.raises(ValueError, match=f"{name}: begin"):
            reference.with_tables(text.replace(f"<!-- {name}: begin -->", ""))


def test_the_page_names_every_flag_of_the_older_commands():
    table = PAGE.read_text(encoding="utf-8").partition("<!-- older-flags: begin -->")[2]
    for command in (older.ptycho_train, older.ptycho_inference):
        # what they share with `ptychopinn` is told in the text above
        shared_with_all = {"config_file", "dry_run", "threads", "crop", "reference", "half"}
        options = [p for p in command.params if isinstance(p, HeadedOption) and p.name not in shared_with_all]
        assert len(options) > 10
        for option in options:
            for flag in (*option.opts, *option.secondary_opts, *option.aliases):
                assert f"`{flag}`" in table


def test_the_example_of_the_page_is_valid(tmp_path, backend, yaml_file, monkeypatch):
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    small_scan(N=64).to_file(tmp_path / "scan.npz")
    monkeypatch.chdir(tmp_path)
    rows = table_of(run("train", "scan.npz", "--config", yaml_file(example), "--epochs", "5", "--dry-run"))
    assert rows["nepochs"] == ("5", "flag") and rows["output_dir"] == ("results", "file")
    assert {"crop", "max_time_s", "learning_rate", "stages", "unet_channels", "scheduler", "accelerator"} <= {
        name for name, (_, source) in rows.items() if source == "file"
    }


@pytest.mark.parametrize(("words", "epochs"), [("", None), ("--refine", 50), ("--refine --refine-epochs 7", 7)])
def test_refinement_afterwards(scan_file, model_folder, tmp_path, backend, no_backend_check, words, epochs):
    """In training and in inference, with as many passes as are asked for, or not at all."""
    assert run("train", scan_file, "-o", tmp_path / "a", *words.split()).exit_code == 0
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "b", *words.split()).exit_code == 0
    for asked in (backend.train.refine, backend.infer.refine):
        assert (None if asked is None else asked.epochs) == epochs


def test_refinement_can_be_stated_in_a_file(scan_file, tmp_path, backend, no_backend_check):
    (tmp_path / "c.yaml").write_text("refine: true\nrefine_epochs: 9\n")
    assert run("train", scan_file, "-o", tmp_path / "a", "--config", tmp_path / "c.yaml").exit_code == 0
    assert backend.train.refine.epochs == 9
    shown = run("train", scan_file, "-o", tmp_path / "b", "--config", tmp_path / "c.yaml", "--dry-run").stdout
    assert [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == ["refine_epochs"]] == [["9", "file"]]


@pytest.mark.parametrize(
    ("words", "repeats"),
    [("", None), ("--uncertainty", 1), ("--ensemble 4", 4), ("--uncertainty --ensemble 3", 3),
     ("--no-uncertainty", None)],
)  # fmt: skip
def test_intervals_of_the_phase(scan_file, model_folder, tmp_path, backend, no_backend_check, words, repeats):
    """In training and in inference, from as many repeats as are asked for, or not at all."""
    assert run("train", scan_file, "-o", tmp_path / "a", *words.split()).exit_code == 0
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "b", *words.split()).exit_code == 0
    for asked in (backend.train.uncertainty, backend.infer.uncertainty):
        assert (None if asked is None else asked.repeats) == repeats


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", None), ("--halves", (0, None)), ("--halves --half 20", (0, 20)), ("--no-halves", None)],
)
def test_two_halves_of_the_scan(scan_file, model_folder, tmp_path, backend, no_backend_check, words, expected):
    assert run("train", scan_file, "-o", tmp_path / "a", "--seed", 0, *words.split()).exit_code == 0
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "b", *words.split()).exit_code == 0
    for asked in (backend.train.halves, backend.infer.halves):
        assert (None if asked is None else (asked.seed, asked.half)) == expected


@pytest.mark.parametrize(("words", "expected"), [((), None), (("--projections", 30), 30)])
def test_projections_before_the_network_of_a_model(scan_file, model_folder, tmp_path, backend, words, expected):
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "a", *words).exit_code == 0
    assert backend.infer.projections == expected
    rows = table_of(run("infer", model_folder, scan_file, "-o", tmp_path / "b", *words, "--dry-run"))
    assert rows["projections"] == (("30", "flag") if words else ("-", "default"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_where_the_canvases_of_an_inference_are_kept(scan_file, model_folder, tmp_path, backend, on_disk):
    words = ("--canvases-on-disk",) if on_disk else ()
    assert run("infer", model_folder, scan_file, "-o", tmp_path / "a", *words).exit_code == 0
    assert backend.infer.canvas_folder == (tmp_path / "a" if on_disk else None)
    rows = table_of(run("infer", model_folder, scan_file, "-o", tmp_path / "b", *words, "--dry-run"))
    assert rows["canvases_on_disk"] == (("True", "flag") if on_disk else ("False", "default"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("wrong", ["0", "1.5"])
def test_projections_that_are_no_count_are_refused(scan_file, model_folder, tmp_path, backend, wrong):
    check_mistake(run("infer", model_folder, scan_file, "-o", tmp_path / "a", "--projections", wrong), "--projections")


def test_halves_of_too_few_frames_are_refused(scan_file, model_folder, tmp_path, backend, no_backend_check):
    """Before anything is run, and before the results of an earlier run are lost."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text("{}")
    for verb in (("train", scan_file), ("infer", model_folder, scan_file)):
        for more in ((), ("--dry-run",)):
            words = ("--halves", "--n-subsample", 7, "--overwrite", *more)
            check_mistake(run(*verb, "-o", out, *words), "found 7 frame", "at least 8")
    assert backend.train is None and backend.infer is None
    assert (out / "metrics.json").exists()


def test_halves_can_be_stated_in_a_file(scan_file, tmp_path, backend, no_backend_check):
    (tmp_path / "c.yaml").write_text("halves: true\nseed: 5\n")
    assert run("train", scan_file, "-o", tmp_path / "a", "--config", tmp_path / "c.yaml").exit_code == 0
    assert backend.train.halves.seed == 5
    shown = run("train", scan_file, "-o", tmp_path / "b", "--config", tmp_path / "c.yaml", "--dry-run").stdout
    assert [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == ["halves"]] == [["True", "file"]]


def test_an_ensemble_without_intervals_is_refused(scan_file, model_folder, tmp_path, backend, no_backend_check):
    words = ("--no-uncertainty", "--ensemble", "3")
    for verb in (("train", scan_file), ("infer", model_folder, scan_file)):
        for more in ((), ("--dry-run",)):
            check_mistake(run(*verb, "-o", tmp_path / "a", *words, *more), "ensemble")
    assert backend.train is None and backend.infer is None


def test_intervals_can_be_stated_in_a_file(scan_file, tmp_path, backend, no_backend_check):
    (tmp_path / "c.yaml").write_text("uncertainty: true\nensemble: 2\nseed: 5\n")
    assert run("train", scan_file, "-o", tmp_path / "a", "--config", tmp_path / "c.yaml").exit_code == 0
    assert (backend.train.uncertainty.repeats, backend.train.uncertainty.seed) == (2, 5)
    shown = run("train", scan_file, "-o", tmp_path / "b", "--config", tmp_path / "c.yaml", "--dry-run").stdout
    assert [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == ["ensemble"]] == [["2", "file"]]
