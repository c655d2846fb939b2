"""Tokens per second of the engine against `transformers` generate (torch, CPU), turn by turn in one process.

Both have the same random weights (the micro model's shape unless told otherwise) and the same prompts, decode greedily
and never stop early. Only tokens within a prompt's budget count. Three workloads:

  varied   budgets log-uniform between --low and --high. transformers takes the prompts in batches of --slots, each of
           which runs until its longest budget is done; with --sorted also with prompts of like budgets put together.
           Its own continuous batching, with as many requests at once, stands beside it.
  equal    every budget is --equal.
  one      a single prompt, one at a time.

    python scripts/bench/generate.py
    python scripts/bench/generate.py --slots 64 --prompts 256 --workloads varied
"""

import argparse
import json
import statistics
import time

import shapes

WORKLOADS = ("varied", "equal", "one")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--prompts", type=int, default=64, help="prompts of a round (default 64)")
    parser.add_argument("--slots", type=int, default=16, help="our slots, and the batch of transformers (default 16)")
    parser.add_argument("--low", type=int, default=12, help="smallest budget in tokens (default 12)")
    parser.add_argument("--high", type=int, default=256, help="largest budget in tokens (default 256)")
    parser.add_argument("--equal", type=int, default=80, help="budget of the workloads equal and one (default 80)")
    parser.add_argument("--steps", type=int, default=8, help="our steps per dispatch (default 8)")
    shapes.add_arguments(parser)
    parser.add_argument("--torch-threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, in which everyone has a turn (default 3)")
    parser.add_argument("--sorted", action="store_true", help="transformers also with like budgets batched together")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def make_prompts(config, budgets):
    """(tokens, budget) pairs; prompts have 24 to 48 tokens."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [(rng.integers(1, config.vocab_size, rng.integers(24, 49)).tolist(), int(budget)) for budget in budgets]


def make_ours(args, config, params, slots):
    """A function of a workload that generates it."""
    import jax

    from rational_jax import models
    from rational_jax.sample import Engine, Request
    from rational_jax.text import Message

    class Verbatim:
        stop_ids = ()

        def prompt(self, messages):
            return json.loads(messages[0].content)

        def decode(self, tokens):
            return ""

    engine = Engine(
        config,
        params,
        Verbatim(),
        slots=slots,
        max_length=48 + max(args.high, args.equal),
        steps_per_dispatch=args.steps,
        execution=models.execution_for(jax.default_backend()),
    )
    engine.warm_up(range(24, 49))

    def generate(prompts):
        requests = [
            Request(id=str(i), messages=(Message(role="user", content=json.dumps(tokens)),), max_new_tokens=budget)
            for i, (tokens, budget) in enumerate(prompts)
        ]
        done = sum(len(completion.token_ids) for completion in engine.generate(requests))
        assert done == sum(budget for _, budget in prompts)

    return generate, engine


def make_transformers(config, params):
    """Two functions of a workload and a batch size that generate it with torch: by `generate`, and continuously."""
    import numpy as np
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

    from rational_jax import hub

    model = LlamaForCausalLM(LlamaConfig(**hub.write_config(config))).eval()
    weights = {"lm_head.weight": torch.tensor(np.asarray(params["embed"]["weight"]))}
    for path, row in hub.weight_table(config).items():
        leaf = params
        for key in path:
            leaf = leaf[key]
        weights |= {piece.name: torch.tensor(np.asarray(leaf)[piece.index]) for piece in row.pieces()}
    model.load_state_dict(weights)

    @torch.inference_mode()
    def generate(prompts, batch):
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            longest, budget = max(len(tokens) for tokens, _ in part), max(budget for _, budget in part)
            tokens, mask = (torch.zeros((len(part), longest), dtype=torch.long) for _ in range(2))
            for row, (prompt, _) in enumerate(part):
                tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
                mask[row, longest - len(prompt) :] = 1
            model.generate(
                tokens,
                attention_mask=mask,
                min_new_tokens=budget,
                max_new_tokens=budget,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )

    def continuous(prompts, batch):
        # Pages for twice the batch; of its own accord it would take most of the memory there is.
        extent = max(len(tokens) + budget for tokens, budget in prompts)
        settings = ContinuousBatchingConfig(
            page_size=16,
            num_blocks=2 * batch * -(-extent // 16),
            max_batch_tokens=256,
            max_requests_per_batch=batch,
        )
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=extent)
        with model.continuous_batching_context_manager(greedy, settings) as manager:
            for number, (tokens, budget) in enumerate(prompts):
                manager.add_request(tokens, request_id=str(number), max_new_tokens=budget, eos_token_id=-1)
            made = 0
            while made < len(prompts):
                result = manager.get_result(timeout=60)
                assert result is not None and result.error is None, result
                assert len(result.generated_tokens) == prompts[int(result.request_id)][1]
                made += 1

    return generate, continuous


def measure(contestants, tokens, repeats):
    """Medians over the rounds, in which everyone has a turn: tokens a second, by the clock and of CPU time."""
    counted = []
    for _ in range(repeats):
        turn = {}
        for name, generate in contestants.items():
            clock, cpu = time.perf_counter(), time.process_time()
            generate()
            turn[name] = (tokens / (time.perf_counter() - clock), tokens / (time.process_time() - cpu))
        counted.append(turn)
    return {
        name: {
            "tokens_per_second": statistics.median(turn[name][0] for turn in counted),
            "tokens_per_cpu_second": statistics.median(turn[name][1] for turn in counted),
            "ours_is_faster": statistics.median(turn["ours"][0] / turn[name][0] for turn in counted),
            "ours_is_cheaper": statistics.median(turn["ours"][1] / turn[name][1] for turn in counted),
        }
        for name in contestants
    }


def main() -> None:
    args = arguments()
    import jax
    import numpy as np
    import torch

    from rational_jax import models

    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    config = shapes.decoder_config(args)
    params = models.init_params(config, jax.random.key(0))
    theirs, continuous = make_transformers(config, params)
    spread = np.exp(np.random.default_rng(0).uniform(np.log(args.low), np.log(args.high), args.prompts)).round()
    budgets = {"varied": spread, "equal": [args.equal] * args.prompts, "one": [args.equal] * 4}
    figures = {}
    for workload in args.workloads:
        prompts = make_prompts(config, budgets[workload])
        slots = 1 if workload == "one" else args.slots
        ours, engine = make_ours(args, config, params, slots)
        contestants = {
            "ours": lambda ours=ours, prompts=prompts: ours(prompts),
            "transformers": lambda prompts=prompts, slots=slots: theirs(prompts, slots),
        }
        if workload == "varied":
            contestants["transformers, continuous"] = lambda prompts=prompts, slots=slots: continuous(prompts, slots)
        if workload == "varied" and args.sorted:
            alike = sorted(prompts, key=lambda prompt: -prompt[1])
            contestants["transformers, sorted"] = lambda alike=alike, slots=slots: theirs(alike, slots)
        theirs([(tokens, 4) for tokens, _ in prompts[:slots]], slots)  # ours has warmed up already
        tokens = sum(budget for _, budget in prompts)
        figures[workload] = measure(contestants, tokens, args.repeats)
        used = engine.counters.slot_steps / (engine.counters.steps * slots)
        if not args.json:
            print(
                f"\n{workload}: {len(prompts)} prompts, {tokens:,} new tokens, {slots} slots ({used:.0%} of them used)"
            )
            print(f"  {'':26}{'tokens/s':>12}{'ours is':>10}{'tokens/CPU s':>16}{'ours is':>10}")
            for name, row in figures[workload].items():
                print(
                    f"  {name:26}{row['tokens_per_second']:12,.0f}{row['ours_is_faster']:9.2f}x"
                    f"{row['tokens_per_cpu_second']:16,.0f}{row['ours_is_cheaper']:9.2f}x",
                    flush=True,
                )
    if args.json:
        print(json.dumps(figures | {"torch_threads": torch.get_num_threads()}, indent=2))


if __name__ == "__main__":
    main()
