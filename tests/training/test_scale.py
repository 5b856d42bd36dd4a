"""What can be known of the configurations for many devices on a machine without any."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser, prepare_multi_gpu_env
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

FILES = Path(__file__).parents[2] / "params" / "accelerate"


@pytest.mark.parametrize(
    ("name", "kind"), [("deepspeed_zero2", DistributedType.DEEPSPEED), ("fsdp2", DistributedType.FSDP)]
)
def test_accelerate_reads_each_configuration_whole(name, kind):
    found = load_config_from_file(str(FILES / f"{name}.yaml"))  # refuses keys that it does not know
    assert found.distributed_type == kind
    assert found.mixed_precision == "bf16" and found.num_machines == 1 and not found.use_cpu


def test_the_fsdp_file_makes_a_plugin_of_version_2_that_wraps_layers(monkeypatch):
    found = load_config_from_file(str(FILES / "fsdp2.yaml"))
    options = [word for key, value in found.fsdp_config.items() for word in (f"--{key}", str(value))]
    args = launch_command_parser().parse_args(
        ["--use_fsdp", *options, "--num_processes", "2", "--num_machines", "1", "--dynamo_backend", "no", "nothing"]
    )
    args.mixed_precision = "bf16"
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy"  # which leaves weights where they are


def test_the_deepspeed_file_is_stage_2_with_the_clipping_of_the_recipes():
    options = load_config_from_file(str(FILES / "deepspeed_zero2.yaml")).deepspeed_config
    assert options["zero_stage"] == 2 and options["gradient_clipping"] == 1.0
    assert options["zero3_init_flag"] is False
