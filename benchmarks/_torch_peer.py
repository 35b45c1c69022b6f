"""The peer of decoder.py, run by the Python of an environment that has torch and transformers; prints JSON."""

import json
import os
import sys
import time

import numpy as np
import torch
from transformers import LlamaForCausalLM

cores = int(os.environ["OMP_NUM_THREADS"])
clock = time.process_time if cores == 1 else time.perf_counter


def median_seconds(function, repeats):
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return float(np.median(times))


def main(folder, file, repeats):
    torch.set_num_threads(cores)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    ids = torch.as_tensor(np.load(file))
    soft = model.get_input_embeddings()(ids).requires_grad_()

    def score():
        with torch.no_grad():
            return model(ids, labels=ids).loss

    def gradient():
        return torch.autograd.grad(model(inputs_embeds=soft, labels=ids).loss, soft)[0]

    timings = {"score": median_seconds(score, repeats), "gradient": median_seconds(gradient, repeats)}
    timings |= {"loss": float(score()), "norm": float(gradient().norm()), "torch": torch.__version__}
    print(json.dumps(timings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
