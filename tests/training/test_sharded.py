"""Spread weights: processes that make different numbers of forwards do not wait for each other."""

import datetime
import os
import socket

import torch
import torch.distributed as dist
from families import family_lm
from torch.distributed.fsdp import fully_shard

from r2ec_lib.training.sharded import whole_weights


def sampled_and_trained(rank: int, port: int, folder: str) -> None:
    """One of two processes; it makes one forward more than the other, and then a step of training with it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=20))
    lm, ids = family_lm("Qwen3").float(), torch.tensor([[5, 6, 7]])
    for module in (*lm.model.layers, lm):
        fully_shard(module, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    with whole_weights(lm), torch.no_grad():
        logits = [lm(input_ids=ids).logits for _ in range(2 + rank)][-1]
    lm(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: weight.grad.full_tensor() for name, weight in lm.named_parameters()}
    torch.save({"logits": logits, **gradients}, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_processes_may_make_different_numbers_of_forwards_and_then_train_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(sampled_and_trained, (port, str(tmp_path)), nprocs=2)
    lm, ids = family_lm("Qwen3").float(), torch.tensor([[5, 6, 7]])
    output = lm(input_ids=ids, labels=ids)
    output.loss.backward()
    expected = {"logits": output.logits.detach(), **{name: weight.grad for name, weight in lm.named_parameters()}}
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / str(rank), weights_only=True), expected)


def test_weights_that_are_not_spread_are_left_as_they_are():
    lm = family_lm("Qwen3")
    before = [weight.data_ptr() for weight in lm.parameters()]
    with whole_weights(lm):
        assert [weight.data_ptr() for weight in lm.parameters()] == before
