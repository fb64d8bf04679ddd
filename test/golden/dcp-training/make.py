# Makes the checkpoints here with torch's own trainer parts: FSDP2 on two gloo processes, get_state_dict, dcp.save.
# Made with torch 2.13.0 and safetensors 0.8.0 by two processes of MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 WORLD_SIZE=2
# RANK=0 (and 1) python make.py.
# A tied embedding, a frozen matrix, two optimizer groups; names in no order of theirs. `nested` has numbered groups,
# `top` flattened ones and the model's names at the top, as torchtitan saves them.
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.frozen = nn.Linear(5, 5, bias=False)
        self.down = nn.Linear(5, 4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight
        self.frozen.weight.requires_grad = False

    def forward(self, ids):
        return self.head(self.down(self.frozen(self.norm(self.up(self.tokens(ids))))))


model = Model()
fully_shard(model)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(
    [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in trained if each.ndim == 1], "weight_decay": 0.0, "betas": (0.9, 0.95)},
    ],
    lr=1e-2,
)
for step in range(3):
    torch.manual_seed(10 * step + dist.get_rank())
    model(torch.randint(0, 7, (2, 6))).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()

for name in ["nested", "top"]:
    options = StateDictOptions(flatten_optimizer_state_dict=name != "nested")
    weights, states = get_state_dict(model, optimizer, options=options)
    saved = {**weights, "optimizer": states} if name == "top" else {"model": weights, "optim": states}
    dcp.save(saved, checkpoint_id=name)

weights, states = get_state_dict(
    model, optimizer, options=StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True)
)
if dist.get_rank() == 0:
    save_file({name: tensor.clone() for name, tensor in weights.items()}, "expected_fp32.safetensors")
    for state in ["exp_avg", "exp_avg_sq"]:
        found = {name: states[f"state.{name}.{state}"] for name in weights if f"state.{name}.{state}" in states}
        save_file(found, f"expected_{state}.safetensors")
