#!/usr/bin/env python3
"""Streams an answer from an h2oserve server.

    examples/python/stream.py 127.0.0.1:50051 "To install the package,"

Shows how to stream, set a deadline, choose what the KV cache keeps, cancel, retry while the
server is unavailable, and tell one error from another. README.md lists what it needs.
"""
import argparse
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"

# gRPC itself retries calls that failed with UNAVAILABLE: no group of workers is ready, or the server
# is not up yet. It never does so once the first message has arrived, so no text can come twice.
SERVICE_CONFIG = json.dumps({"methodConfig": [{
    "name": [{"service": "h2oserve.v1.Inference"}],
    "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.5s", "maxBackoff": "5s", "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"]}}]})

# A server that does not answer at all, frozen or cut off, is noticed within 20 seconds.
CHANNEL_OPTIONS = [("grpc.service_config", SERVICE_CONFIG), ("grpc.keepalive_time_ms", 10_000),
                   ("grpc.keepalive_timeout_ms", 10_000), ("grpc.http2.max_pings_without_data", 0)]


def load_stubs():
    """Makes inference.proto's Python modules in a temporary folder and imports them.

    A program of your own would make them once, when it is built.
    """
    plugin = shutil.which("grpc_python_plugin")  # Debian: protobuf-compiler-grpc; PyPI: grpcio-tools
    compiler = ["protoc", f"--plugin=protoc-gen-grpc_python={plugin}"] if plugin else [sys.executable, "-m", "grpc_tools.protoc"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*compiler, f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", "inference.proto"],
                       check=True)
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("inference_pb2"), importlib.import_module("inference_pb2_grpc")
        finally:
            sys.path.remove(folder)


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


def main():
    arguments = parse_arguments()
    pb, rpc = load_stubs()
    request = pb.GenerateRequest(text=arguments.prompt, max_tokens=arguments.max_tokens)
    request.kv_policy.name = arguments.kv_policy
    if arguments.kv_policy != "full":
        request.kv_policy.tokens = arguments.kv_budget

    with grpc.insecure_channel(arguments.server, options=CHANNEL_OPTIONS) as channel:
        call = rpc.InferenceStub(channel).Generate(request, timeout=arguments.timeout)
        lines = 0
        try:
            for message in call:
                print(message.text, end="", flush=True)
                lines += message.text.count("\n")
                if message.HasField("usage"):  # the last message
                    usage = message.usage
                    print(f"\n{pb.FinishReason.Name(message.finish_reason)}: {usage.prompt_tokens} tokens in, "
                          f"{usage.completion_tokens} out, {usage.tokens_evicted} evicted, "
                          f"{usage.kv_bytes >> 10} KiB of KV cache (full: {usage.kv_bytes_full >> 10})", file=sys.stderr)
                elif arguments.lines and lines >= arguments.lines:
                    call.cancel()  # the server frees the request's KV cache within two steps
        except KeyboardInterrupt:
            call.cancel()
            return 1
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                print("\ncancelled", file=sys.stderr)
                return 0
            # INVALID_ARGUMENT: the request is wrong and the text says how. RESOURCE_EXHAUSTED: the queue is
            # full, try later. DEADLINE_EXCEEDED: what was printed is the answer so far.
            print(f"\n{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
