#!/usr/bin/env python3
"""Streams an answer from an h2oserve server.

    examples/python/stream.py 127.0.0.1:50051 "To install the package,"

Shows how to stream, set a deadline, choose what the KV cache keeps, cancel, and tell one error from another. That calls
are made again while the server is unavailable, and that a broken stream goes on, is the package's business. README.md
says how to install it.
"""
import argparse
import sys

import h2oserve


def parse_arguments():
    parser = argparse.ArgumentParser(description="Streams an answer from an h2oserve server.")
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help="deadline of the whole answer")
    parser.add_argument("--kv-policy", default="h2o", help="full, h2o, recent or sink")
    parser.add_argument("--kv-budget", type=int, default=64, metavar="TOKENS", help="tokens that each head may keep")
    parser.add_argument("--lines", type=int, help="cancels the request after so many lines")
    return parser.parse_args()


def show(stream, lines):
    """Prints a stream as it comes, and cancels it after so many lines."""
    for event in stream:
        print(event.text, end="", flush=True)
        if event.usage:  # the last event
            usage = event.usage
            print(f"\n{event.finish_reason}: {usage.prompt_tokens} tokens in, {usage.completion_tokens} out, "
                  f"{usage.tokens_evicted} evicted, {usage.kv_bytes >> 10} KiB of KV cache "
                  f"(full: {usage.kv_bytes_full >> 10})", file=sys.stderr)
        elif lines is not None and lines > 0:
            lines -= event.text.count("\n")
            if lines <= 0:
                stream.close()  # the server frees the request's KV cache within two steps
                print("\ncancelled", file=sys.stderr)


def main():
    arguments = parse_arguments()
    budget = None if arguments.kv_policy == "full" else arguments.kv_budget
    try:
        with h2oserve.Client(arguments.server) as client, client.stream(
                arguments.prompt, max_tokens=arguments.max_tokens, timeout=arguments.timeout,
                kv_policy=arguments.kv_policy, kv_budget=budget) as stream:
            show(stream, arguments.lines)
    except h2oserve.InvalidRequest as error:
        print(f"\nthe request is wrong: {error}", file=sys.stderr)
        return 1
    except h2oserve.DeadlineExceeded as error:
        print(f"\nwhat was printed is the answer so far: {error}", file=sys.stderr)
        return 1
    except h2oserve.H2OServeError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
