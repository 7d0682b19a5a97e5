#!/usr/bin/env python3
"""Checks that every room includes only lower levels.

A room is a folder of the repository (docs/design.md).  A file may include
headers of its own room and of the rooms that the table LEVELS names for it.
Doors (programs and their gRPC services) may include more than the core of the
same folder.
"""
import pathlib
import re
import sys

# Room -> what it may include beside itself.  A header of another room can be
# named alone.
LEVELS = {
    "base": [],
    "kv_codes": ["base"],
    "kernels": ["base", "kv_codes"],
    "parallel": ["base", "kernels/device.h", "kernels/peer_sums.h",
                 "kernels/cuda/cuda_error.h"],
    "kv": ["base", "kernels", "parallel/shard_spec.h"],
    "model": ["base", "kv_codes", "kv/kv_geometry.h", "parallel/shard_spec.h",
              "parallel/unique_fd.h"],
    "chat": ["base", "model/json_file.h"],
    "api": ["base", "model"],
    "openai": ["base", "model", "api"],
    "access": ["base", "api"],
    "http": ["base"],
    "web": [],
    "proto": ["base", "model", "api", "kv/kv_geometry.h", "parallel/shard_spec.h"],
    "worker": ["base", "kernels", "kv", "model", "parallel"],
    "quantize": ["base", "kernels", "kv", "model", "parallel", "worker"],
    "coordinator": ["base", "model", "api", "kv/kept_mass.h", "kv/kv_geometry.h", "parallel/shard_spec.h"],
    "flags": ["base", "model", "api"],
    "embedded": ["base", "kernels", "kv", "model", "parallel", "api", "worker",
                 "coordinator"],
    "eval": ["base", "kv/kv_geometry.h", "model", "api", "embedded"],
    "loadtest": ["base", "http", "openai"],
    "clients": ["base", "kernels", "kv", "model", "parallel", "api", "proto",
                "worker", "quantize", "coordinator", "embedded", "eval", "flags", "access", "http",
                "loadtest", "openai"],
    "bench": ["base", "kernels", "kv", "model", "parallel", "api", "proto",
              "worker", "coordinator", "embedded", "flags", "clients"],
}
# What may include more: each room's program and its door.
DOORS = {
    "worker/main.cc": ["access", "flags", "http", "proto"],
    "worker/worker_health.cc": ["http"],
    "worker/worker_health.h": ["http"],
    "worker/worker_service.cc": ["proto", "flags"],
    "worker/worker_service.h": [],
    "coordinator/admin_service.cc": ["proto"],
    "coordinator/connections.cc": ["parallel/unique_fd.h"],
    "coordinator/doorkeeper.cc": ["access"],
    "coordinator/doorkeeper.h": ["access"],
    "coordinator/listen_sockets.h": ["parallel/unique_fd.h"],
    "coordinator/greetings.h": ["parallel/unique_fd.h"],
    "coordinator/guard.cc": ["access", "flags", "http", "proto"],
    "coordinator/guard.h": ["access", "flags", "http", "proto"],
    "coordinator/main.cc": ["chat", "flags", "http", "proto"],
    "coordinator/remote_ranks.h": ["proto"],
    "coordinator/worker_registry.cc": ["proto"],
    "coordinator/worker_registry.h": ["proto"],
    "coordinator/worker_stream.cc": ["proto"],
    "coordinator/worker_stream.h": ["proto"],
    "coordinator/generate_stream.cc": ["proto"],
    "coordinator/completion_call.cc": ["openai"],
    "coordinator/completion_call.h": ["http", "openai"],
    "coordinator/http_call.h": ["http", "openai"],
    "coordinator/http_service.cc": ["http", "openai", "web"],
    "coordinator/http_service.h": ["http"],
    "coordinator/openai_service.cc": ["openai"],
    "coordinator/openai_service.h": ["chat", "openai"],
    "coordinator/inference_service.cc": ["proto"],
    "coordinator/reflection.cc": ["proto"],
    "coordinator/inference_service.h": ["proto"],
}
# Libraries with one owner: no other room names them.
OWNED = [
    (re.compile(r"<dnnl|hwy/"), {"kernels"}),
    (re.compile(r"<grpc|\.pb\.h"), {"proto", "coordinator", "worker", "clients", "bench"}),
    (re.compile(r"<CLI/"), {"flags", "clients", "bench", "worker", "coordinator"}),
    (re.compile(r"<pcre2"), {"model"}),
    (re.compile(r"<nccl"), {"parallel"}),
    (re.compile(r"<boost/"), {"http"}),
    # clients and flags only tell it to stay as it is at exit.
    (re.compile(r"<openssl"), {"access", "clients", "flags", "http", "parallel"}),
]
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def problems(root):
    for path in sorted(root.glob("*/**/*")):
        if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
            continue
        name = path.relative_to(root).as_posix()
        room = name.split("/")[0]
        if room not in LEVELS:
            continue
        allowed = [room] + LEVELS[room] + DOORS.get(name, [])
        for bracket, included in INCLUDE.findall(path.read_text()):
            other = included.split("/")[0]
            if other in LEVELS and "/" in included:
                if other not in allowed and included not in allowed:
                    yield f"{name} includes {included}: {room}/ may include {', '.join(allowed)}"
            for pattern, owners in OWNED:
                if pattern.search(("<" if bracket == "<" else "") + included) and room not in owners:
                    yield f"{name} includes {included}, which belongs to {', '.join(sorted(owners))}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = list(problems(root))
    for line in found:
        print(line)
    print(f"{len(found)} includes go up or sideways" if found else "layers are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
