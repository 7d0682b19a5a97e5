"""The methods of the gRPC interface, on a channel of either kind."""
from __future__ import annotations

import json
from typing import Any, cast

from ._types import Admission, Health, ModelInfo
from .v1 import inference_pb2 as pb


def _bytes_of(message: Any) -> bytes:
    return cast(bytes, message.SerializeToString())


class Methods:
    """Callables of grpc or grpc.aio."""

    def __init__(self, channel: Any) -> None:
        def unary(method: str, answer: Any) -> Any:
            return channel.unary_unary(f"/h2oserve.v1.{method}", request_serializer=_bytes_of,
                                       response_deserializer=answer.FromString)

        self.generate = channel.unary_stream("/h2oserve.v1.Inference/Generate", request_serializer=_bytes_of,
                                             response_deserializer=pb.GenerateResponse.FromString)
        self.model_info = unary("Inference/GetModelInfo", pb.ModelInfo)
        self.check_admission = unary("Inference/CheckAdmission", pb.AdmissionAnswer)
        self.tokenize = unary("Inference/Tokenize", pb.TokenizeResponse)
        self.detokenize = unary("Inference/Detokenize", pb.DetokenizeResponse)
        self.status = unary("Admin/GetStatus", pb.Status)
        self.drain = unary("Admin/Drain", pb.DrainResponse)
        self.health = channel.unary_unary("/grpc.health.v1.Health/Check")


def model_info_of(info: pb.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=info.name, num_layers=info.num_layers, num_heads=info.num_heads, num_kv_heads=info.num_kv_heads,
        head_dim=info.head_dim, vocab_size=info.vocab_size, max_positions=info.max_positions,
        tensor_parallel_size=info.tensor_parallel_size, num_groups=info.num_groups, kv_pool_bytes=info.kv_pool_bytes,
        default_kv_policy=info.default_kv_policy, version=info.version)


def admission_of(answer: pb.AdmissionAnswer) -> Admission:
    return Admission(fits_now=answer.fits_now, retry_after=answer.retry_after_seconds, pages=answer.pages,
                     kv_bytes=answer.kv_bytes, reason=answer.reason)


def status_of(status: pb.Status) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(status.json))


# The standard health service has one field each way, so its messages are written out here.

def health_request(service: str) -> bytes:
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"no health service has a name of {len(name)} bytes")
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def health_of(reply: bytes) -> Health:
    names: tuple[Health, ...] = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
    return names[reply[1]] if len(reply) == 2 and reply[1] < len(names) else "UNKNOWN"
