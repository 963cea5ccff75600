"""torch + peft (training) and transformers (generation) as a contender: python torch_contender.py FOLDER DTYPE THREADS

As one would write them for this model: LoRA of rank 16 on attention and MLP, Adam, cross-entropy from float32 logits;
generation with a cache of keys and values, logits of the last position only, greedy. Sampling uses the base model: no LoRA.
"""
import functools
import os
import sys

# They slow OpenBLAS down where a shell has set them for another program.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import peft
import torch
import transformers
from lines import answer_lines, generation, now

FOLDER, DTYPE, THREADS = sys.argv[1], sys.argv[2], int(sys.argv[3])
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

torch.set_num_threads(THREADS)


def load():
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=getattr(torch, DTYPE))


@functools.cache
def trained():
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS)
    model = peft.get_peft_model(load(), config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.95))


@functools.cache
def sampled():
    return load().eval()


def train(request):
    model, optimizer = trained()
    ids = torch.tensor(request["sequences"])
    start = now()
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum"
    )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"seconds": now() - start, "tokens": ids[:, 1:].numel(), "parts": {}}


@torch.inference_mode()
def generate(request):
    model = sampled()
    ids = torch.tensor(request["prompts"])
    start = now()
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    chosen = out.logits[:, -1:].argmax(-1)
    chosen.tolist()
    first = now()
    for _ in range(request["newTokens"] - 1):
        out = model(input_ids=chosen, past_key_values=out.past_key_values, use_cache=True)
        chosen = out.logits[:, -1:].argmax(-1)
        chosen.tolist()
    return generation(start, first, now(), len(ids), request["newTokens"])


versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, {DTYPE}"
answer_lines(versions, {"train": train, "generate": generate})
