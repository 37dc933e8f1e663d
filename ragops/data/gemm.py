"""Runs inside the reranker's image: how fast this machine multiplies matrices of a model's shapes.

Reads a JSON request from standard input and writes a JSON result to standard output;
``bench/measure.py`` writes the one and reads the other. It needs only torch.
"""

import json
import statistics
import sys
import time

import torch


def main():
    request = json.loads(sys.stdin.readline())
    torch.set_num_threads(request["threads"])
    result = {"threads": torch.get_num_threads(), "gemms": {}}
    for dtype in request["dtypes"]:
        try:
            rates = tflops(dtype, request["shapes"], request["tokens"], request["seconds"])
            result["gemms"][dtype] = {"tflops": max(rates), "median": statistics.median(rates)}
        except Exception as error:  # a missing kernel is a result
            result["gemms"][dtype] = {"error": str(error)[:300]}
    json.dump(result, sys.stdout)


def tflops(dtype, shapes, tokens, seconds):
    """Of all shapes together, each as often as in the model, for each repetition within the seconds."""
    work = [(multiplication(dtype, tokens, rows, columns), count) for rows, columns, count in shapes]
    for multiply, _ in work:
        multiply()
    total = sum(2 * tokens * rows * columns * count for rows, columns, count in shapes)
    rates, end = [], time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        rates.append(total / sum(count * timed(multiply) for multiply, count in work) / 1e12)
    return rates


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
