"""Runs inside the reranker's image: how fast this machine multiplies matrices of a model's shapes.

Reads a JSON order from standard input and writes a JSON answer to standard output; ``limit.py``
sends the one and reads the other. It needs nothing but torch.
"""

import json
import sys
import time

import torch


def main():
    ask = json.load(sys.stdin)
    torch.set_num_threads(ask["threads"])
    answer = {"threads": torch.get_num_threads(), "gemms": {}}
    for dtype in ask["dtypes"]:
        try:
            answer["gemms"][dtype] = {"tflops": tflops(dtype, ask["shapes"], ask["tokens"], ask["seconds"])}
        except Exception as error:  # a kernel that is missing is an answer
            answer["gemms"][dtype] = {"error": str(error)[:300]}
    json.dump(answer, sys.stdout)


def tflops(dtype, shapes, tokens, seconds):
    """Of all shapes together, as often as the model has each; the best of the rounds that fit the time."""
    work = [(multiplication(dtype, tokens, rows, columns), count) for rows, columns, count in shapes]
    for multiply, _ in work:
        multiply()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, sum(count * timed(multiply) for multiply, count in work))
    total = sum(2 * tokens * rows * columns * count for rows, columns, count in shapes)
    return total / best / 1e12


def timed(multiply):
    begin = time.perf_counter()
    multiply()
    return time.perf_counter() - begin


def multiplication(dtype, tokens, rows, columns):
    if dtype == "int8":
        left = torch.randint(-128, 127, (tokens, rows), dtype=torch.int8)
        right = torch.randint(-128, 127, (columns, rows), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)
    left = torch.randn(tokens, rows, dtype=getattr(torch, dtype))
    layer = torch.nn.Linear(rows, columns, bias=False, dtype=getattr(torch, dtype))
    layer.requires_grad_(False)
    return lambda: layer(left)


if __name__ == "__main__":
    main()
